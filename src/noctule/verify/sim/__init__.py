"""Whole replicas on a simulated network, disk and clock, from one seed.

Read time.py, network.py, disk.py, machine.py, world.py, workload.py, invariants.py, run.py.
Apart from these, one Raft group by hand: driving_disk.py, driving.py, and in readable text transcript_text.py,
transcript.py.
"""
