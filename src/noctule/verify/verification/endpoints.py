"""The four health endpoints: the right status code and the right JSON, on every instance and through the balancer."""

from typing import Literal

import msgspec

from noctule.base.errors import NoctuleError
from noctule.verify.verification.report import Finding
from noctule.verify.verification.subject import Subject
from noctule.verify.verification.visitor import Reply


class StatusBody(msgspec.Struct, frozen=True):
    """What every health endpoint says at least."""

    status: str


class HealthBody(StatusBody, frozen=True):
    """/health of an instance."""

    instance_id: str = msgspec.field(name="instanceId")
    uptime_s: float


class DependencyBody(msgspec.Struct, frozen=True):
    """One dependency in /health/backend."""

    status: Literal["ok", "failed"]
    reason: str | None = None


class BackendBody(StatusBody, frozen=True):
    """/health/backend."""

    instance_id: str = msgspec.field(name="instanceId")
    checks: dict[str, DependencyBody]


OF_INSTANCE: dict[str, type[StatusBody]] = {
    "/health": HealthBody,
    "/health/live": StatusBody,
    "/health/ready": StatusBody,
    "/health/backend": BackendBody,
}
"""Path to what an instance answers there."""

OF_BALANCER: dict[str, type[StatusBody]] = {**OF_INSTANCE, "/health": StatusBody}
"""The same through the balancer, which may answer /health for itself."""


def problem_of(reply: Reply | NoctuleError, shape: type[StatusBody]) -> str:
    """What is wrong with the answer of a health endpoint in one sentence; empty when it is 200 and ``ok``."""
    if isinstance(reply, NoctuleError):
        return str(reply)
    where = f"{reply.method} {reply.url}"
    if reply.status != 200:
        return f"{where}: {reply.status} instead of 200: {_excerpt(reply.body)}"
    try:
        body = msgspec.json.decode(reply.body, type=shape)
    except msgspec.DecodeError as error:
        return f"{where}: 200 with the wrong JSON: {error}"
    if body.status != "ok":
        return f"{where}: 200, and yet its status is {body.status!r} instead of 'ok'"
    return ""


def problem_of_instance(reply: Reply | NoctuleError, instance_id: str, shape: type[StatusBody]) -> str:
    """As `problem_of`, and whoever answers must be the instance that was asked."""
    problem = problem_of(reply, shape)
    if problem or isinstance(reply, NoctuleError):
        return problem
    if reply.instance != instance_id:
        return f"GET {reply.url}: answered by {reply.instance or 'nobody by name'} instead of {instance_id}"
    return ""


async def check_balancer_endpoints(subject: Subject) -> Finding:
    """All four answer through the balancer."""
    problems, lines = [], []
    for path, shape in OF_BALANCER.items():
        try:
            reply: Reply | NoctuleError = await subject.stranger.get(subject.url + path)
        except NoctuleError as error:
            reply = error
        problem = problem_of(reply, shape)
        if problem:
            problems.append(problem)
        else:
            lines.append(str(reply))
    return Finding(problems, lines, {"endpoints_count": len(OF_BALANCER)})


async def check_instance_endpoints(subject: Subject) -> Finding:
    """All four answer on every instance, under its own name."""
    problems, lines = [], []
    for path, shape in OF_INSTANCE.items():
        for instance, reply in await subject.ask_each_instance(path):
            problem = problem_of_instance(reply, instance.id, shape)
            if problem:
                problems.append(problem)
            else:
                lines.append(f"{instance.id}: {reply}")
    return Finding(problems, lines, {"endpoints_count": len(OF_INSTANCE) * len(subject.instances)})


def _excerpt(body: bytes) -> str:
    return " ".join(body[:200].decode(errors="replace").split()) or "an empty body"
