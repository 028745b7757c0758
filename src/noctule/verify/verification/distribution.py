"""How requests spread over the instances: who answered, did all get traffic, and was it about even."""

from collections import Counter
from collections.abc import Mapping

from noctule.base.errors import NoctuleError, UnavailableError
from noctule.verify.verification.report import Finding
from noctule.verify.verification.subject import Subject

SPREAD_PATH = "/health/backend"
"""Answered by an instance and never by the balancer itself, and changes nothing."""

SHARE_MIN = 0.5
"""Of the even share, for each instance. Thirty requests at chance over three instances stay above half of it in 96 of
100 runs; a balancer that takes turns always does."""

SHARE_MAX = 2.0
"""Of the even share, for each instance."""

PROBLEMS_SHOWN_MAX = 10


async def check_answered(subject: Subject) -> Finding:
    """Every spread request is answered with 200 by an instance that names itself."""
    problems = []
    for number in range(1, subject.options.requests + 1):
        try:
            reply = await subject.stranger.get(subject.url + SPREAD_PATH)
        except NoctuleError as error:
            problems.append(f"request {number}: {error}")
            continue
        if reply.instance:
            subject.traffic[reply.instance] += 1
        else:
            problems.append(f"request {number}: {reply}, and no X-Noctule-Instance tells who answered")
            continue
        if reply.status != 200:
            problems.append(f"request {number}: {reply}, answered by {reply.instance}")
    answered = subject.traffic.total()
    measurements = {"requests_count": subject.options.requests, "answered_count": answered}
    lines = [f"{answered} of {subject.options.requests} requests to {SPREAD_PATH} were answered by a named instance"]
    return Finding(shortened(problems), lines, {**measurements})


async def check_coverage(subject: Subject) -> Finding:
    """Every known instance got traffic, and nobody else did."""
    ids = [instance.id for instance in subject.need_instances()]
    problems = problems_of_coverage(ids, _need_traffic(subject))
    return Finding(problems, _lines_of(ids, subject.traffic), {"answers_count": dict(subject.traffic)})


async def check_balance(subject: Subject) -> Finding:
    """Each known instance got between half and double its even share."""
    ids = [instance.id for instance in subject.need_instances()]
    total = _need_traffic(subject).total()
    shares = {known: round(100 * subject.traffic[known] / total, 1) for known in ids}
    lines = [f"even would be {100 / len(ids):.1f} % each", *_lines_of(ids, subject.traffic)]
    return Finding(problems_of_balance(ids, subject.traffic), lines, {"share_percent": shares})


def problems_of_coverage(ids: list[str], traffic: Mapping[str, int]) -> list[str]:
    """Instances without traffic, and traffic without a known instance; empty when there is neither."""
    total = sum(traffic.values())
    problems = [f"{known} got none of {total} requests" for known in ids if not traffic.get(known)]
    if total < len(ids):
        problems.append(f"{total} answers cannot reach {len(ids)} instances; raise --requests")
    problems += [
        f"{known} answered {count} requests and is not among the known instances"
        for known, count in sorted(traffic.items())
        if known not in ids
    ]
    return problems


def problems_of_balance(ids: list[str], traffic: Mapping[str, int]) -> list[str]:
    """Instances whose part is under `SHARE_MIN` or over `SHARE_MAX` of the even share of all answers."""
    total = sum(traffic.values())
    even = total / len(ids)
    problems = []
    for known in ids:
        count = traffic.get(known, 0)
        if count < SHARE_MIN * even:
            problems.append(f"{known} got {count} of {total} requests, less than half of its even share of {even:.1f}")
        elif count > SHARE_MAX * even:
            problems.append(f"{known} got {count} of {total} requests, more than double its even share of {even:.1f}")
    return problems


def shortened(problems: list[str]) -> list[str]:
    """The first problems, and how many more there are."""
    if len(problems) <= PROBLEMS_SHOWN_MAX:
        return problems
    return [*problems[:PROBLEMS_SHOWN_MAX], f"and {len(problems) - PROBLEMS_SHOWN_MAX} more"]


def _need_traffic(subject: Subject) -> Counter[str]:
    if not subject.traffic:
        raise UnavailableError("no request was answered by a named instance, as the check requests-answered tells")
    return subject.traffic


def _lines_of(ids: list[str], traffic: Mapping[str, int]) -> list[str]:
    total = sum(traffic.values())
    width = max(len(known) for known in [*ids, *traffic])
    return [
        f"{known:<{width}}  {traffic.get(known, 0)} requests ({100 * traffic.get(known, 0) / total:.1f} %)"
        for known in [*ids, *sorted(set(traffic) - set(ids))]
    ]
