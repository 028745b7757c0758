"""The report for a person: sections, a line for each check with its details, and a summary.

Colour only repeats what the words PASS, FAIL and SKIP say; rich leaves it out for NO_COLOR and for what is no terminal.
"""

from itertools import groupby

from rich.console import Console
from rich.text import Text

from noctule.verify.verification.report import CheckResult, CheckStatus, Report, section_status

_WORDS = {
    CheckStatus.PASSED: ("PASS", "bold green"),
    CheckStatus.FAILED: ("FAIL", "bold red"),
    CheckStatus.SKIPPED: ("SKIP", "yellow"),
}


def show(report: Report, console: Console) -> None:
    """Print the whole report; lines are never broken, so that they can be searched."""
    sections = [(name, list(results)) for name, results in groupby(report.checks, lambda result: result.section)]
    _line(console, Text(f"Verification of {report.url}", style="bold"))
    for name, results in sections:
        _line(console, Text(f"\n{name}", style="bold"))
        for result in results:
            _show_check(result, console)
    _line(console, Text("\nSummary", style="bold"))
    for name, results in sections:
        _line(console, _labelled(section_status(results), name))
    counts = report.summary
    sentence = f"{counts.passed} passed, {counts.failed} failed, {counts.skipped} skipped"
    _line(console, Text(f"\n{sentence}", style=_WORDS[CheckStatus.PASSED if report.passed else CheckStatus.FAILED][1]))


def _show_check(result: CheckResult, console: Console) -> None:
    _line(console, _labelled(result.status, result.title).append(f"  [{', '.join(result.requirements)}]", style="dim"))
    for problem in result.problems:
        _line(console, Text(f"        ! {problem}", style="red"))
    for line in result.detail:
        _line(console, Text(f"        {line}"))


def _labelled(status: CheckStatus, title: str) -> Text:
    word, style = _WORDS[status]
    return Text("  ").append(word, style=style).append(f"  {title}")


def _line(console: Console, text: Text) -> None:
    console.print(text, soft_wrap=True, highlight=False)
