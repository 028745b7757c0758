"""The checks of `noctule verify`: each looks at a running cluster from outside and can fail.

Read options.py, report.py, visitor.py (one who asks), subject.py (what is known so far), then run.py (the list of
checks) and the checks by section: health.py, distribution.py, sessions.py, endpoints.py, failover.py with
local_process.py. screen.py shows the report.
"""
