"""What a verification found: one result for each check, and the report that holds them."""

from enum import StrEnum
from typing import TypeAlias

import msgspec

Measurement: TypeAlias = int | float | str | dict[str, int] | dict[str, float]


class Finding(msgspec.Struct, frozen=True):
    """What one check says; it passed when it has no problems."""

    problems: list[str]
    """Each a sentence: what was wrong, and where."""
    lines: list[str] = []
    """What was seen, for a person; also when it passed."""
    measurements: dict[str, Measurement] = {}
    """What was seen, for a program; the unit is the end of each name."""


class CheckStatus(StrEnum):
    """How a check ended."""

    PASSED = "passed"
    FAILED = "failed"
    """Also when it could not be carried out."""
    SKIPPED = "skipped"
    """An option that was not given is needed for it."""


class CheckResult(msgspec.Struct, frozen=True):
    """One check with its outcome."""

    id: str
    section: str
    title: str
    status: CheckStatus
    requirements: list[str]
    """The rows of the requirements that it shows, such as ``R-67``."""
    problems: list[str]
    detail: list[str]
    measurements: dict[str, Measurement]
    duration_ms: float

    @property
    def passed(self) -> bool:
        """Whether it was carried out and found nothing wrong."""
        return self.status is CheckStatus.PASSED


class Summary(msgspec.Struct, frozen=True):
    """How many checks ended in which way."""

    passed: int
    failed: int
    skipped: int


class Report(msgspec.Struct, frozen=True):
    """All results in the order of the checks."""

    url: str
    passed: bool
    """No check failed, and at least one was carried out."""
    summary: Summary
    checks: list[CheckResult]

    @property
    def exit_code(self) -> int:
        """0 when `passed`, else 1."""
        return 0 if self.passed else 1

    def as_json(self) -> str:
        """One JSON document on one line."""
        return msgspec.json.encode(self).decode()


def report_of(url: str, results: list[CheckResult]) -> Report:
    """Gather results into a report."""
    count = {status: sum(result.status is status for result in results) for status in CheckStatus}
    summary = Summary(count[CheckStatus.PASSED], count[CheckStatus.FAILED], count[CheckStatus.SKIPPED])
    return Report(url, summary.failed == 0 and summary.passed > 0, summary, results)


def section_status(results: list[CheckResult]) -> CheckStatus:
    """One word for a section: failed when any check of it failed, skipped when all were skipped."""
    statuses = {result.status for result in results}
    if CheckStatus.FAILED in statuses:
        return CheckStatus.FAILED
    return CheckStatus.PASSED if CheckStatus.PASSED in statuses else CheckStatus.SKIPPED
