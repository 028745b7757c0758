"""The checks in their order, and the loop that carries them out."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from noctule.base.errors import NoctuleError
from noctule.client.api import NodeClient
from noctule.client.exchange import base_url
from noctule.verify.verification import distribution, endpoints, failover, health, sessions
from noctule.verify.verification.options import Options
from noctule.verify.verification.report import CheckResult, CheckStatus, Finding, Report, report_of
from noctule.verify.verification.subject import Subject
from noctule.verify.verification.visitor import Visitor


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that is looked at."""

    id: str
    """Stays the same between versions: scripts may name it."""
    section: str
    title: str
    requirements: tuple[str, ...]
    run: Callable[[Subject], Awaitable[Finding]]
    destructive: bool = False
    """Carried out only when the options say so."""


CHECKS: tuple[Check, ...] = (
    Check("instances-known", "Health", "The instances are known", ("R-72",), health.check_instances_known),
    Check("balancer-health", "Health", "The load balancer is healthy", ("R-67", "R-131"), health.check_balancer_health),
    Check("instance-health", "Health", "Every instance is healthy", ("R-68", "O-123"), health.check_instance_health),
    Check("instance-ready", "Readiness", "Every instance is ready", ("R-69", "R-133"), health.check_readiness),
    Check("instance-live", "Liveness", "Every instance is alive", ("R-70", "R-134"), health.check_liveness),
    Check(
        "requests-answered",
        "Load Distribution",
        "Every request is answered by a named instance",
        ("R-71", "R-72"),
        distribution.check_answered,
    ),
    Check(
        "all-get-traffic",
        "Load Distribution",
        "Every instance gets traffic",
        ("R-73", "R-140"),
        distribution.check_coverage,
    ),
    Check(
        "traffic-balanced",
        "Load Distribution",
        "The traffic is balanced",
        ("R-74", "R-143", "N-89", "O-124"),
        distribution.check_balance,
    ),
    Check("session-created", "Session Persistence", "A session is created", ("R-75",), sessions.check_created),
    Check(
        "session-consistent",
        "Session Persistence",
        "The session is the same on every instance",
        ("R-76", "R-141"),
        sessions.check_consistent,
    ),
    Check("session-stored", "Session Persistence", "The session is in the store", ("R-77",), sessions.check_stored),
    Check(
        "balancer-endpoints",
        "Health Endpoints",
        "All health endpoints answer through the load balancer",
        ("R-78", "R-79", "R-80", "R-139"),
        endpoints.check_balancer_endpoints,
    ),
    Check(
        "instance-endpoints",
        "Health Endpoints",
        "All health endpoints answer on every instance",
        ("R-78", "R-79", "R-80", "R-132", "R-133", "R-134"),
        endpoints.check_instance_endpoints,
    ),
    Check(
        "session-survives-kill",
        "Failover",
        "The session outlives a killed instance, and no request fails",
        ("N-94", "R-145"),
        failover.check_session_survives,
        destructive=True,
    ),
    Check(
        "instance-returns",
        "Failover",
        "The killed instance comes back",
        ("R-145",),
        failover.check_instance_returns,
        destructive=True,
    ),
)


async def verify(url: str, options: Options, on_check: Callable[[Check], None] = lambda check: None) -> Report:
    """Carry out every check against the balancer at `url`, in order, and report on all of them.

    `on_check` is told of each check before it begins. A check that cannot be carried out has failed, with the reason;
    one that needs an option which was not given is skipped. Nothing is changed but one session of a visitor by the
    name of ``verify-…``, unless `Options.destructive` is set. Raises `ConfigError` before anything is sent when `url`
    or the options are wrong.
    """
    url = base_url(url, what="URL")
    options.validate()
    results = []
    async with (
        NodeClient(options.node, deadline_s=options.timeout_s) as node,
        Visitor(timeout_s=options.timeout_s) as stranger,
        Visitor(timeout_s=options.timeout_s, keeps_cookies=True) as visitor,
    ):
        subject = Subject(url, options, node, stranger, visitor)
        for check in CHECKS:
            on_check(check)
            results.append(await _result_of(check, subject))
    return report_of(url, results)


async def _result_of(check: Check, subject: Subject) -> CheckResult:
    begun = time.perf_counter()
    if check.destructive and not subject.options.destructive:
        status, finding = CheckStatus.SKIPPED, Finding([], ["it kills an instance: give --destructive"])
    else:
        try:
            finding = await check.run(subject)
        except NoctuleError as error:
            finding = Finding([str(error)])
        status = CheckStatus.FAILED if finding.problems else CheckStatus.PASSED
    return CheckResult(
        id=check.id,
        section=check.section,
        title=check.title,
        status=status,
        requirements=list(check.requirements),
        problems=finding.problems,
        detail=finding.lines,
        measurements=finding.measurements,
        duration_ms=round((time.perf_counter() - begun) * 1000, 1),
    )
