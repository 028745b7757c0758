"""`noctule verify history`: whether any correct store could have answered what a history says."""

from pathlib import Path
from typing import Annotated

import typer

from noctule.base.errors import ConfigError
from noctule.cli import output
from noctule.cli.output import JsonOption
from noctule.verify.checkers.history import load_history
from noctule.verify.checkers.judge import ModelName, Verdict, judge
from noctule.verify.checkers.picture import render_picture
from noctule.verify.checkers.violation import Violation, begins, text_of

_KEYS_LISTED_MAX = 20


def history(
    file: Annotated[Path, typer.Argument(help="JSON lines, one operation a line.", metavar="FILE")],
    model: Annotated[
        ModelName, typer.Option(help="What every key is; auto: what its operations say.")
    ] = ModelName.AUTO,
    json: JsonOption = False,
    picture: Annotated[
        Path | None, typer.Option(metavar="FILE.svg", help="Draw the first violation into this SVG file.")
    ] = None,
) -> int:
    """Check a history of client operations: linearizable for each key, lists strictly serializable; 10 when not.

    Exit code 11 when the search was given up for some keys and no other is violated: then nobody can say.
    """
    verdict = judge(load_history(file), model)
    if picture is not None:
        _draw(picture, verdict)
    if json:
        output.print_json(
            {
                "holds": verdict.holds,
                "operations": verdict.operations,
                "keys": verdict.keys,
                "violated_keys": verdict.violated_keys,
                "undecided_keys": verdict.undecided_keys,
                "violations": verdict.violations,
            }
        )
    else:
        _show(file, verdict)
    if verdict.violated_keys:
        return output.VIOLATED
    return output.UNDECIDED if verdict.undecided_keys else 0


def _draw(picture: Path, verdict: Verdict) -> None:
    if not verdict.violations:
        output.say(f"nothing is violated, so {picture} is not written")
        return
    try:
        picture.write_text(render_picture(verdict.violations[0]), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write the picture {picture}: {error.strerror}") from error


def _show(file: Path, verdict: Verdict) -> None:
    keys = ", ".join(f"{name}: {count:,}" for name, count in verdict.keys.items())
    print(f"{file}: {verdict.operations:,} operations; keys by model: {keys or 'none'}")
    if verdict.holds:
        print("HOLDS: a correct store could have answered so")
        return
    for violation in verdict.violations:
        _show_violation(violation)
    untold = verdict.violated_keys[len(verdict.violations) :]
    if untold:
        print(f"\nAlso violated: {_listed(untold)}")
    if verdict.undecided_keys:
        print(
            f"\nUNDECIDED: {_listed(verdict.undecided_keys)}\n"
            "  the search for an order that explains every answer was given up; a correct store may have answered so\n"
            "  or not. Record fewer operations at once on each key, fewer of unknown outcome, or values that occur once"
        )


def _listed(keys: list[str]) -> str:
    more = len(keys) - _KEYS_LISTED_MAX
    return f"{', '.join(keys[:_KEYS_LISTED_MAX])}{f' and {more} more' if more > 0 else ''}"


def _show_violation(violation: Violation) -> None:
    """The sentence, and the short part in order of time with an arrow at what cannot be."""
    print(f"\nVIOLATED: {violation.kind} at key {violation.key!r}\n  {violation.explanation}")
    if violation.initial:
        print(f"  {begins(violation)}")
    rows = [("start s", "end s", "process", "operation")]
    for each in violation.operations:
        end = "-" if each.outcome == "unknown" or each.end is None else f"{each.end:.6f}"
        rows.append((f"{each.start:.6f}", end, str(each.process), text_of(each)))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    marks = ["  ", *("->" if each is violation.offending else "  " for each in violation.operations)]
    for mark, (start, end, process, text) in zip(marks, rows, strict=True):
        print(f"  {mark} {start:>{widths[0]}}  {end:>{widths[1]}}  {process:<{widths[2]}}  {text}")
