"""The cluster of one machine: plan, supervisor, instance runner."""
