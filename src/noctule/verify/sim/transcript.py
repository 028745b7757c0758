"""Transcripts: a group driven by hand (`driving.py`) in readable text, with everything that happened written below.

`python -m noctule.verify.sim.transcript FILE` replays a file and prints it with fresh output. A file is paragraphs with
an empty line between them: comments (`#`) and commands, one a line, then `----`, then the output of these commands.
The commands are told in tests/transcripts/README.md; values are given as `name=value`. Output never tells the time,
which chance decides, and so stays the same as long as the rules do.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import NamedTuple

from noctule.base.errors import NoctuleError, RequestError
from noctule.core.raft.config import RaftConfig
from noctule.core.raft.events import Transition
from noctule.core.raft.membership import Change, ChangeKind
from noctule.core.raft.messages import HardState
from noctule.verify.sim.driving import TINY, Group, Wanted, chosen, log_of
from noctule.verify.sim.transcript_text import data_text, letter_text, line_of, membership_text, value_text

SEPARATOR = "----"


def replay(text: str) -> str:
    """The same transcript with the output that its commands give now; missing output is added.

    Raises `RequestError` for a command that is unknown or makes no sense, with its line.
    """
    transcript = Transcript()
    paragraphs = []
    for paragraph in text.strip("\n").split("\n\n"):
        lines = paragraph.strip("\n").split("\n")
        head = lines[: lines.index(SEPARATOR)] if SEPARATOR in lines else lines
        commands = [line for line in head if not line.startswith("#")]
        output = [line for command in commands for line in transcript.run(command)]
        paragraphs.append("\n".join([*head, SEPARATOR, *output] if commands else head))
    return "\n\n".join(paragraphs) + "\n"


class Arguments(NamedTuple):
    """What follows the name of a command: plain words, and `name=value` pairs."""

    words: list[str]
    values: dict[str, str]

    def nodes(self, least: int = 0) -> list[int]:
        """All words as numbers, at least so many of them."""
        if len(self.words) < least:
            raise RequestError(f"takes at least {least} number{'s' * (least > 1)}")
        return [number(word) for word in self.words]

    def node(self) -> int:
        """The first word as a number."""
        if not self.words:
            raise RequestError("takes at least 1 number")
        return number(self.words[0])

    def wanted(self) -> Wanted:
        """The letters chosen by kind, from and to."""
        sender, to = self.values.get("from"), self.values.get("to")
        return chosen(
            self.values.get("kind"),
            sender=number(sender) if sender is not None else None,
            to=number(to) if to is not None else None,
        )


def number(word: str) -> int:
    """A whole number, or `RequestError`."""
    if not word.isdecimal():
        raise RequestError(f"{word!r} is not a number")
    return int(word)


def numbers(words: str) -> list[int]:
    """Whole numbers with commas between them, or `RequestError`."""
    return [number(word) for word in words.split(",") if word]


class Transcript:
    """Runs commands one by one; the group is made by the first, `nodes`."""

    def __init__(self) -> None:
        self._group: Group | None = None
        self._told = 0

    def run(self, line: str) -> list[str]:
        """What happened by this command, a line each; `RequestError` names the command."""
        name, *rest = line.split()
        if name == "quietly" and rest:
            self.run(" ".join(rest))
            return []
        pairs = dict(word.split("=", 1) for word in rest if "=" in word)
        arguments = Arguments([word for word in rest if "=" not in word], pairs)
        try:
            if name == "nodes":
                self._group, self._told = make_group(arguments), 0
                return []
            if self._group is None:
                raise RequestError("comes before `nodes`")
            if name in TABLES:
                return list(TABLES[name](self._group, arguments))
            if name not in COMMANDS:
                raise RequestError(f"is no command; there are {', '.join(sorted(['nodes', *COMMANDS, *TABLES]))}")
            COMMANDS[name](self._group, arguments)
        except RequestError as error:
            raise RequestError(f"{line!r}: {error}") from None
        happened, self._told = self._group.journal[self._told :], len(self._group.journal)
        return [line_of(happening) for happening in happened]


# Commands -------------------------------------------------------------------------------------------------------------


def make_group(arguments: Arguments) -> Group:
    """`nodes COUNT learners=N,… lease=MILLISECONDS quiet=MILLISECONDS seed=N BOUND=N…`: bounds as in `RaftConfig`."""
    values = dict(arguments.values)
    seed = number(values.pop("seed", "1"))
    learners = numbers(values.pop("learners", ""))
    lease_s = number(values.pop("lease", "0")) / 1000
    quiet_after_s = number(values.pop("quiet", "0")) / 1000
    known = {field.name for field in fields(RaftConfig) if field.type is int}
    for name in values:
        if name not in known:
            raise RequestError(f"{name} is no bound; there are {', '.join(sorted(known))}")
    if arguments.node() == 0:
        raise RequestError("takes at least one node")
    bounds = {name: number(value) for name, value in values.items()}
    config = replace(TINY, lease_s=lease_s, quiet_after_s=quiet_after_s, **bounds)
    config.validate()
    return Group(arguments.node(), config, seed, learners=learners)


def start(group: Group, arguments: Arguments) -> None:
    """`start N [terms=1,1,2] [term=T] [vote=N]`: with what the disk holds, or with this put on it."""
    node, values = arguments.node(), arguments.values
    if "terms" not in values:
        group.start(node)
        return
    log = log_of(*(number(term) for term in values["terms"].split(",") if term))
    hard_state = HardState(number(values.get("term", str(log.last_term))), number(values.get("vote", "0")))
    if hard_state.term < log.last_term:
        raise RequestError(f"a node with an entry of term {log.last_term} is not in term {hard_state.term}")
    group.start(node, log, hard_state)


def propose(group: Group, arguments: Arguments) -> None:
    """`propose N data… [bytes=SIZE]`: each word, or so many bytes of `x`."""
    data = [word.encode() for word in arguments.words[1:]]
    if "bytes" in arguments.values:
        data.append(b"x" * number(arguments.values["bytes"]))
    if not data:
        raise RequestError("takes data")
    for each in data:
        group.propose(arguments.node(), each)


def read(group: Group, arguments: Arguments) -> None:
    """`read N context… [by=lease]`."""
    for context in arguments.nodes(2)[1:]:
        group.read_index(arguments.node(), context, lease=arguments.values.get("by") == "lease")


def change(group: Group, arguments: Arguments) -> None:
    """`change N [voter=N,…] [learner=N,…] [removed=N,…] [by=simple]`."""
    way = arguments.values.get("by", Transition.JOINT)
    if way not in set(Transition):
        raise RequestError(f"{way} is no way to change; there are {', '.join(Transition)}")
    changes = [Change(kind, node) for kind in ChangeKind for node in numbers(arguments.values.get(kind, ""))]
    group.change(arguments.node(), *changes, transition=Transition(way))


def lose_disk(group: Group, arguments: Arguments) -> None:
    """`lose-disk N DIRECTORY`."""
    group.lose_disk(*pair(arguments))


def tick(group: Group, arguments: Arguments) -> None:
    """`tick MILLISECONDS [nodes…]`."""
    milliseconds, *nodes = arguments.nodes(1)
    group.tick(milliseconds / 1000, nodes or None)


def stabilise(group: Group, arguments: Arguments) -> None:
    """`stabilise [nodes…]`: everyone else is cut off."""
    nodes = arguments.nodes() or group.members
    wanted = arguments.wanted()
    group.stabilise(lambda sender, to, message: sender in nodes and to in nodes and wanted(sender, to, message))


def deliver(group: Group, arguments: Arguments) -> None:
    """`deliver [newest-first] [kind=K] [from=N] [to=N]`."""
    group.deliver(arguments.wanted(), newest_first="newest-first" in arguments.words)


def sync(group: Group, arguments: Arguments) -> None:
    """`sync N [COUNT]`."""
    node, *count = arguments.nodes(1)
    group.sync(node, count[0] if count else None)


def compact(group: Group, arguments: Arguments) -> None:
    """`compact N [INDEX]`."""
    node, *index = arguments.nodes(1)
    group.compact(node, index[0] if index else None)


def pair(arguments: Arguments) -> tuple[int, int]:
    """Two nodes."""
    if len(arguments.words) != 2:
        raise RequestError("takes two numbers")
    first, second = arguments.nodes()
    return first, second


COMMANDS: dict[str, Callable[[Group, Arguments], object]] = {
    "start": start,
    "crash": lambda group, arguments: group.crash(arguments.node()),
    "hold": lambda group, arguments: group.hold(arguments.node()),
    "sync": sync,
    "release": lambda group, arguments: group.release(arguments.node()),
    "campaign": lambda group, arguments: group.campaign(arguments.node()),
    "propose": propose,
    "read": read,
    "change": change,
    "leave": lambda group, arguments: group.leave_joint(arguments.node()),
    "join": lambda group, arguments: group.join(arguments.node()),
    "lose-disk": lose_disk,
    "transfer": lambda group, arguments: group.transfer(*pair(arguments)),
    "suspect": lambda group, arguments: group.suspect(*pair(arguments)),
    "trust": lambda group, arguments: group.trust(*pair(arguments)),
    "compact": compact,
    "tick": tick,
    "deliver": deliver,
    "double": lambda group, arguments: group.double(arguments.wanted()),
    "drop": lambda group, arguments: group.drop(arguments.wanted()),
    "stabilise": stabilise,
}


# Tables ---------------------------------------------------------------------------------------------------------------


def table(head: str, rows: list[list[object]]) -> Iterator[str]:
    """Columns as wide as they need."""
    cells = [head.split(), *[[str(cell) for cell in row] for row in rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    for row in cells:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def state_table(group: Group, arguments: Arguments) -> Iterator[str]:
    """`state [nodes…]`: the log as terms, after the snapshot's (index@term); who is quiet in brackets."""
    rows: list[list[object]] = []
    for node in arguments.nodes() or group.members:
        state = group.state(node)
        terms = ",".join(map(str, state.log_terms)) or "-"
        log = f"({state.snapshot[0]}@{state.snapshot[1]}),{terms}" if state.snapshot[0] else terms
        role = state.role if state.running else "(down)"
        if state.running and group.nodes[node].is_quiet():
            role = f"[{role}]"
        rows.append([node, role, state.term, state.vote, state.leader, state.commit, state.applied, state.durable, log])
    return table("node role term vote leader commit applied durable log", rows)


def progress_table(group: Group, arguments: Arguments) -> Iterator[str]:
    """`progress N`: the leader's view of the others."""
    peers = group.state(arguments.node()).peers
    return table("peer state match next in_flight", [[peer, *progress] for peer, progress in peers.items()])


def members_table(group: Group, arguments: Arguments) -> Iterator[str]:
    """`members [nodes…]`: the membership that each goes by, and where it stands in its log."""
    for node in arguments.nodes() or group.members:
        state = group.state(node)
        yield f"{node}: at {state.membership_index}: {membership_text(state.membership)}"


def applied_table(group: Group, arguments: Arguments) -> Iterator[str]:
    """`applied [nodes…]`: the state of each, data in the order in which it was applied."""
    for node in arguments.nodes() or group.members:
        yield f"{node}: {' '.join(data_text(data) for data in group.applied[node])}".rstrip()


def disk_table(group: Group, arguments: Arguments) -> Iterator[str]:
    """`disk [nodes…]`: what each would start with."""
    for node in arguments.nodes() or group.members:
        disk = group.disk[node]
        snapshot = f"{disk.snapshot.index}@{disk.snapshot.term}" if disk.snapshot is not None else "none"
        yield (
            f"{node}: term {disk.hard_state.term} vote {disk.hard_state.vote or 'none'} snapshot {snapshot} "
            f"log after {disk.mark[0]}@{disk.mark[1]} {value_text(disk.entries)}"
        )


def mail_table(group: Group, _arguments: Arguments) -> Iterator[str]:
    """`mail`: the letters on their way, oldest first."""
    return (letter_text(letter, "~>") for letter in group.mail)


TABLES: dict[str, Callable[[Group, Arguments], Iterator[str]]] = {
    "state": state_table,
    "progress": progress_table,
    "members": members_table,
    "applied": applied_table,
    "disk": disk_table,
    "mail": mail_table,
}


def main() -> int:
    """Replay the file that the argument names; exit code 0, or that of the error."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    options = parser.parse_args()
    try:
        sys.stdout.write(replay(options.file.read_text(encoding="utf-8")))
    except OSError as error:
        print(f"{options.file} cannot be read: {error.strerror}", file=sys.stderr)
        return RequestError.exit_code
    except NoctuleError as error:
        print(f"{options.file}: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
