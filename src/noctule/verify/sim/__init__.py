"""Whole replicas on a simulated network, disk and clock, from one seed.

Read time.py, network.py, memory_disk.py, faulty_files.py, disk.py, coverage.py, machine.py, invariants.py, workload.py,
faults.py, world.py, run.py, speed.py.
Apart from these, one Raft group by hand: driving_disk.py, driving.py, in readable text transcript_text.py,
transcript.py, and under random events fuzz.py.
"""
