"""Whole replicas on a simulated network, disk and clock, from one seed.

Read time.py, network.py, disk.py, machine.py, world.py, workload.py, invariants.py, run.py.
"""
