"""What the verbs that look after a cluster share: a conversation, a question, bars of what is on its way."""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, TypeAlias, TypeVar

import typer

from noctule.base.errors import ConfigError

if TYPE_CHECKING:
    from noctule.client.admin import AdminClient
    from noctule.core.meta.views import OperationView

T = TypeVar("T")

LOOK_S = 0.25
"""How often something that is waited for is looked at."""

YesOption: TypeAlias = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


def ask(url: str, call: "Callable[[AdminClient], Awaitable[T]]") -> T:
    """One conversation with a node."""
    from noctule.client.admin import AdminClient

    async def converse() -> T:
        async with AdminClient(url) as client:
            return await call(client)

    return asyncio.run(converse())


def confirm(question: str, *, yes: bool) -> None:
    """Go on only when a person says so; where there is no terminal to ask, `--yes` must have been given."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfigError(f"{question} There is nobody to ask here: give --yes to go on.")
    typer.confirm(question, abort=True, err=True)


def pair_of(text: str) -> tuple[str, str]:
    """The two sides of KEY=VALUE."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"{text!r} is not of the form KEY=VALUE")
    return key, value


class Bars:
    """Bars on stderr when that is a terminal, one for each name; nothing elsewhere. Use `bars()`."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskID, TextColumn

        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[words]}"))
        self.progress = Progress(*columns, console=console, disable=not console.is_terminal)
        self._tasks: dict[str, TaskID] = {}

    def show(self, name: str, done: float, total: float, words: str) -> None:
        """Set one bar; without a total it only moves."""
        if name not in self._tasks:
            self._tasks[name] = self.progress.add_task(name, total=None, words="")
        self.progress.update(self._tasks[name], completed=done, total=total or None, words=words)

    def show_operation(self, view: "OperationView") -> None:
        """One migration, split or merge."""
        done = view.progress.bytes_done if view.progress else 0
        total = view.progress.bytes_total if view.progress else 0
        if view.has_ended or view.stage == "done":
            done = total = 1
        self.show(title_of(view), done, total, words_of(view))


@asynccontextmanager
async def bars() -> AsyncIterator[Bars]:
    """Bars for as long as the block runs."""
    shown = Bars()
    with shown.progress:
        yield shown


def title_of(view: "OperationView") -> str:
    """What it is, in a few words."""
    match view.kind:
        case "split":
            return f"split of partition {view.partition} at slot {view.at_slot}"
        case "merge":
            return f"merge {view.id}: partition {view.other} into {view.partition}"
        case "migration":
            move = f"{view.source or 'nowhere'} → {view.target or 'nowhere'}"
            return f"migration {view.id}: partition {view.partition}, {move}"


def words_of(view: "OperationView") -> str:
    """How it gets on: stage, bytes, keys, rate, seconds left; or why it went back."""
    progress = view.progress
    if progress is None:
        return f"{view.stage} ({view.note})" if view.note else view.stage
    words = [view.stage, f"{size(progress.bytes_done)} of {size(progress.bytes_total)}"]
    words.append(f"{progress.keys_done} of {progress.keys_total} keys")
    if progress.bytes_per_s:
        words.append(f"{size(progress.bytes_per_s)}/s")
    if progress.seconds_left is not None:
        words.append(f"{progress.seconds_left:.0f} s left")
    return ", ".join(words)


def size(count: float) -> str:
    """Bytes for a person."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
