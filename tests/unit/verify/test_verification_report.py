"""The report: what counts as passed, and what a person gets to read."""

import io

import msgspec
from rich.console import Console

from noctule.verify.verification.report import CheckResult, CheckStatus, report_of, section_status
from noctule.verify.verification.run import CHECKS
from noctule.verify.verification.screen import show

PASSED, FAILED, SKIPPED = CheckStatus.PASSED, CheckStatus.FAILED, CheckStatus.SKIPPED


def result(status: CheckStatus, section: str = "Health") -> CheckResult:
    problems = ["[web-1] is gone"] if status is FAILED else []
    return CheckResult("an-id", section, "A title", status, ["R-67"], problems, ["GET http://x: 200"], {"a_ms": 1}, 2.0)


def test_a_report_passes_when_nothing_failed_and_something_was_looked_at() -> None:
    assert report_of("http://x", [result(PASSED), result(SKIPPED)]).exit_code == 0
    assert report_of("http://x", [result(PASSED), result(FAILED)]).exit_code == 1
    assert report_of("http://x", [result(SKIPPED)]).exit_code == 1
    assert not report_of("http://x", []).passed


def test_a_section_is_as_bad_as_its_worst_check() -> None:
    assert section_status([result(PASSED), result(FAILED), result(SKIPPED)]) is FAILED
    assert section_status([result(PASSED), result(SKIPPED)]) is PASSED
    assert section_status([result(SKIPPED)]) is SKIPPED


def test_the_screen_says_everything_in_words() -> None:
    report = report_of("http://x", [result(PASSED), result(FAILED, "Readiness"), result(SKIPPED, "Failover")])
    console = Console(file=io.StringIO(), width=20)
    show(report, console)
    assert isinstance(console.file, io.StringIO)
    assert (
        console.file.getvalue()
        == """Verification of http://x

Health
  PASS  A title  [R-67]
        GET http://x: 200

Readiness
  FAIL  A title  [R-67]
        ! [web-1] is gone
        GET http://x: 200

Failover
  SKIP  A title  [R-67]
        GET http://x: 200

Summary
  PASS  Health
  FAIL  Readiness
  SKIP  Failover

1 passed, 1 failed, 1 skipped
"""
    )


def test_the_json_is_the_report() -> None:
    report = report_of("http://x", [result(FAILED)])
    assert msgspec.json.decode(report.as_json()) == {
        "url": "http://x",
        "passed": False,
        "summary": {"passed": 0, "failed": 1, "skipped": 0},
        "checks": [
            {
                "id": "an-id",
                "section": "Health",
                "title": "A title",
                "status": "failed",
                "requirements": ["R-67"],
                "problems": ["[web-1] is gone"],
                "detail": ["GET http://x: 200"],
                "measurements": {"a_ms": 1},
                "duration_ms": 2.0,
            }
        ],
    }


def test_the_checks_have_ids_of_their_own_and_the_sections_of_the_requirements() -> None:
    assert len({check.id for check in CHECKS}) == len(CHECKS)
    sections = list(dict.fromkeys(check.section for check in CHECKS))
    # R-144 names the first six.
    assert sections == [
        "Health",
        "Readiness",
        "Liveness",
        "Load Distribution",
        "Session Persistence",
        "Health Endpoints",
        "Failover",
    ]
    assert all(check.requirements for check in CHECKS)
