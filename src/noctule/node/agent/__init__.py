"""The agent of a node: the services beside it, their checks, and what the registry is told of them.

Read local_services.py (what is known here), records.py and orders.py (how it outlives the process), check_runner.py
(who makes the checks), pusher.py (who tells the registry), then agent.py, which puts them together.
"""
