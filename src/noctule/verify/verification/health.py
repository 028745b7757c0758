"""Who the instances are, and whether the balancer and each of them is healthy, ready and alive."""

from noctule.base.errors import NoctuleError
from noctule.verify.verification.endpoints import OF_INSTANCE, StatusBody, problem_of, problem_of_instance
from noctule.verify.verification.report import Finding, Measurement
from noctule.verify.verification.subject import KnownInstance, Subject


async def check_instances_known(subject: Subject) -> Finding:
    """The instances that were given name themselves, or the node names them."""
    if subject.options.instances:
        return await _ask_given(subject)
    try:
        registered = await subject.node.instances()
    except NoctuleError as error:
        return Finding([f"{error}; start the cluster with noctule up, or name a node with --node or every --instance"])
    subject.instances = [KnownInstance(instance.id, f"http://{instance.address}") for instance in registered]
    problems = [
        f"{instance.id} at {instance.address} is registered as {instance.state}"
        for instance in registered
        if instance.state != "healthy"
    ]
    if not registered:
        problems.append(f"{subject.options.node} knows no instance; name each with --instance")
    return _finding_of(subject.instances, problems)


async def _ask_given(subject: Subject) -> Finding:
    problems = []
    for url in subject.options.instances:
        base = url.rstrip("/")
        try:
            name = (await subject.stranger.get(base + "/health/live")).instance
        except NoctuleError as error:
            problems.append(str(error))
            name = ""
        else:
            if not name:
                problems.append(f"GET {base}/health/live: the answer has no X-Noctule-Instance")
        if name and any(known.id == name for known in subject.instances):
            problems.append(f"{base} calls itself {name}, as another instance does")
        # An instance that does not answer stays on the list under its URL, so that it is missed by every check.
        subject.instances.append(KnownInstance(name or base, base))
    return _finding_of(subject.instances, problems)


def _finding_of(instances: list[KnownInstance], problems: list[str]) -> Finding:
    lines = [f"{instance.id} at {instance.url}" for instance in instances]
    return Finding(problems, lines, {"instances_count": len(instances)})


async def check_balancer_health(subject: Subject) -> Finding:
    """/health through the balancer: 200 and ``ok``."""
    reply = await subject.stranger.get(subject.url + "/health")
    problem = problem_of(reply, StatusBody)
    return Finding([problem] if problem else [], [str(reply)], {"latency_ms": reply.latency_ms})


async def check_instance_health(subject: Subject) -> Finding:
    """/health of each instance."""
    return await _check_each(subject, "/health")


async def check_readiness(subject: Subject) -> Finding:
    """/health/ready of each instance: it may get traffic."""
    return await _check_each(subject, "/health/ready")


async def check_liveness(subject: Subject) -> Finding:
    """/health/live of each instance: its process runs."""
    return await _check_each(subject, "/health/live")


async def _check_each(subject: Subject, path: str) -> Finding:
    problems, lines = [], []
    measurements: dict[str, Measurement] = {}
    for instance, reply in await subject.ask_each_instance(path):
        problem = problem_of_instance(reply, instance.id, OF_INSTANCE[path])
        if problem:
            problems.append(f"{instance.id}: {problem}")
        if not isinstance(reply, NoctuleError):
            lines.append(f"{instance.id}: {reply}")
            measurements[f"{instance.id}_latency_ms"] = reply.latency_ms
    return Finding(problems, lines, measurements)
