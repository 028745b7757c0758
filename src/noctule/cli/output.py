"""What every verb does with its result: data to stdout, all else to stderr, one table of exit codes."""

import importlib.metadata
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, TypeAlias

import typer

from noctule.base.errors import (
    RETIRED,
    ConfigError,
    InternalError,
    NoctuleError,
    OutcomeUnknownError,
    RequestError,
    StorageError,
    UnavailableError,
)

FAILED = NoctuleError.exit_code
VIOLATED = 10
UNDECIDED = 11
BROKEN_PIPE = 141
INTERRUPTED = 130

EXIT_CODES: dict[int, str] = {
    0: "Done.",
    FAILED: "The answer is no: a key that is not there, a verification that failed, an answer that is not Noctule's.",
    ConfigError.exit_code: "A setting or argument is wrong, or clashes with what is on disk; nothing was started.",
    UnavailableError.exit_code: "Nobody could serve it in time; nothing was applied, so trying again is safe.",
    RequestError.exit_code: "The request cannot be done as it is; trying it again gives the same answer.",
    OutcomeUnknownError.exit_code: "It was sent and no answer came: it may or may not have been applied.",
    StorageError.exit_code: "The disk failed, is full, or holds something damaged.",
    VIOLATED: "A history holds an answer that no correct store could have given.",
    UNDECIDED: "Too many ways to explain a history: nobody can say whether a correct store could have answered so.",
    RETIRED: "The node no longer belongs to its cluster; starting it again is no use.",
    InternalError.exit_code: "A bug of Noctule's own. NOCTULE_DEBUG=1 shows where.",
    INTERRUPTED: "Ended by a signal before its work was done.",
    BROKEN_PIPE: "Whoever read the output has gone.",
}
"""Exit code to meaning: the one table, of which docs/reference/exit-codes.md is made."""

_HINTS: dict[type[NoctuleError], str] = {
    UnavailableError: "nothing was applied; noctule status shows what is missing, noctule up starts a cluster",
    OutcomeUnknownError: "it may have been applied; look before you try again",
    InternalError: "this is a bug in Noctule; please report it with the output of NOCTULE_DEBUG=1",
}

NODE_URL = "http://127.0.0.1:7501"
"""The first node of ``noctule up``."""

PIPE_COLUMNS = 160
"""How wide a table is where there is no terminal to ask."""

NodeOption: TypeAlias = Annotated[
    str, typer.Option("--node", envvar="NOCTULE_NODE", metavar="URL", help="HTTP URL of any node of the cluster.")
]
JsonOption: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def version(json: JsonOption = False) -> None:
    """Print the version, and whether its hot path is compiled."""
    from noctule.base.form import IS_COMPILED

    found = installed_version()
    if json:
        print_json({"version": found, "compiled": IS_COMPILED})
    else:
        print(f"{found} (compiled)" if IS_COMPILED else found)


def installed_version() -> str:
    """The version of this package as it is installed."""
    return importlib.metadata.version("noctule")


def print_json(value: object) -> None:
    """One JSON document on one line of stdout, at once."""
    import msgspec

    print(msgspec.json.encode(value).decode(), flush=True)


def say(line: str) -> None:
    """One line for a person, on stderr."""
    print(line, file=sys.stderr, flush=True)


def report(error: Exception, *, is_debug: bool) -> int:
    """Tell of an error in one line, with a second that says what to do where that is known; its exit code.

    What is not ours is our bug, except the command line library's complaints about what was typed. With `is_debug` the
    traceback goes before.
    """
    if is_debug:
        traceback.print_exception(error)
    if isinstance(error, NoctuleError):
        say(f"error: {_one_line(str(error)) or type(error).__name__}")
        hint = next((hint for kind, hint in _HINTS.items() if isinstance(error, kind)), "")
        if hint:
            say(f"hint: {hint}")
        return error.exit_code
    if hasattr(error, "format_message"):
        # The library has its own copy of click in some versions, whose classes are not click's; this they all have.
        say(f"error: {_one_line(error.format_message())}")
        context = getattr(error, "ctx", None)
        if context is not None:
            say(f"hint: {context.command_path} --help")
        return ConfigError.exit_code
    say(f"error: internal: {type(error).__name__}: {_one_line(str(error))}")
    say(f"hint: {_HINTS[InternalError]}")
    return InternalError.exit_code


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table for people on stdout; cells are text and never markup."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    console = console if console.is_terminal else Console(width=PIPE_COLUMNS)
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    console.print(table)


class Notices:
    """Lines for whoever watches something long: a spinner on a terminal while `is_waiting`, plain lines elsewhere."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True)
        self._status = self._console.status("starting") if self._console.is_terminal else None

    def __call__(self, line: str) -> None:
        """Show a line."""
        if self._status is not None:
            self._status.update(line)
        else:
            say(line)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Show lines in place of each other while the block runs, until `settle`."""
        if self._status is not None:
            self._status.start()
        try:
            yield
        finally:
            self.settle()

    def settle(self) -> None:
        """From now on every line stays."""
        if self._status is not None:
            self._status.stop()
            self._status = None


def _one_line(text: str) -> str:
    return " ".join(text.split())
