"""The destructive part: one instance is killed without warning while visitors go on, and it must come back."""

import asyncio

from noctule.base.errors import NoctuleError, RequestError, UnavailableError
from noctule.client.pictures import Instance
from noctule.verify.verification.distribution import shortened
from noctule.verify.verification.endpoints import HealthBody, problem_of_instance
from noctule.verify.verification.local_process import kill_listener
from noctule.verify.verification.report import Finding
from noctule.verify.verification.sessions import visit
from noctule.verify.verification.subject import Drill, KnownInstance, Subject

VISIT_PAUSE_S = 0.05
"""Between two visits, so that the watch is a visitor and not a load test."""

LOOK_PAUSE_S = 0.2
"""Between two looks at the registry."""


async def check_session_survives(subject: Subject) -> Finding:
    """No visit fails and the session stays the same for `watch_s` seconds after an instance was killed."""
    subject.need_session()
    before = await subject.node.instances()
    if len(before) < 2:
        raise UnavailableError(f"{len(before)} instance is registered; killing needs another one that goes on")
    victim = _kill_one(before)
    known = KnownInstance(victim.id, f"http://{victim.address}")
    async with asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(_watch(subject), name="watch visitors")
        returning = tasks.create_task(_wait_returned(subject, victim), name="wait for the instance")
    requests, failures = watching.result()
    returned_after_s, new_pid, why_not = returning.result()
    subject.drill = Drill(known, requests, failures, returned_after_s, new_pid, why_not)
    lines = [
        f"killed {victim.id}, pid {victim.pid}, with SIGKILL",
        f"{requests} visits with the session's cookie in {subject.options.watch_s:g} s, {len(failures)} of them failed",
    ]
    measurements = {"requests_count": requests, "failed_count": len(failures)}
    return Finding(shortened(failures), lines, {**measurements})


async def check_instance_returns(subject: Subject) -> Finding:
    """The killed instance is registered and healthy with another pid within `return_within_s` seconds of the kill."""
    drill = subject.drill
    if drill is None:
        raise UnavailableError("no instance was killed, as the check session-survives-kill tells")
    if drill.returned_after_s is None:
        limit_s = subject.options.return_within_s
        return Finding([f"{drill.killed.id} was not back within {limit_s:g} s: {drill.why_not_returned}"])
    lines = [f"{drill.killed.id} was back after {drill.returned_after_s:.1f} s with pid {drill.new_pid}"]
    return Finding([], lines, {"returned_after_s": round(drill.returned_after_s, 3)})


def _kill_one(instances: list[Instance]) -> Instance:
    """Kill the first instance that is a process of this machine; raises `RequestError` with every reason against it."""
    reasons = []
    for instance in instances:
        try:
            kill_listener(instance.address, instance.pid)
        except RequestError as error:
            reasons.append(f"{instance.id}: {error}")
        else:
            return instance
    raise RequestError("no instance can be killed from here: " + "; ".join(reasons))


async def _watch(subject: Subject) -> tuple[int, list[str]]:
    loop = asyncio.get_running_loop()
    begun = loop.time()
    requests, failures = 0, []
    while loop.time() - begun < subject.options.watch_s:
        after_s = loop.time() - begun
        requests += 1
        try:
            problem, _ = await visit(subject)
        except NoctuleError as error:
            problem = str(error)
        if problem:
            failures.append(f"{after_s:.2f} s after the kill: {problem}")
        await asyncio.sleep(VISIT_PAUSE_S)
    return requests, failures


async def _wait_returned(subject: Subject, victim: Instance) -> tuple[float | None, int | None, str]:
    """Seconds since the kill and the new pid, or None twice and the last reason."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    reason = ""
    while loop.time() - begun < subject.options.return_within_s:
        try:
            found = next((one for one in await subject.node.instances() if one.id == victim.id), None)
            reason = await _why_not_back(subject, victim, found)
        except NoctuleError as error:
            reason = str(error)
        if found and not reason:
            return loop.time() - begun, found.pid, ""
        await asyncio.sleep(LOOK_PAUSE_S)
    return None, None, reason


async def _why_not_back(subject: Subject, victim: Instance, found: Instance | None) -> str:
    if found is None:
        return "it is not registered"
    if found.pid == victim.pid:
        return f"it is still registered with pid {victim.pid}, which was killed"
    if found.state != "healthy":
        return f"pid {found.pid} is registered as {found.state}"
    return problem_of_instance(await subject.stranger.get(f"http://{found.address}/health"), found.id, HealthBody)
