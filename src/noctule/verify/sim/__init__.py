"""Whole replicas on a simulated network, disk and clock, from one seed."""
