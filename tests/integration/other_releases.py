"""``noctule`` as an earlier and as a later release might be, for clusters of mixed versions.

``python other_releases.py older …`` lacks features that this release has and the commands that came with them, and
cannot read what subscribers are sent.
``newer`` keeps a motto with each member, a field that this release does not know, and writes those that it finds into
its data folder when it ends.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Union, get_args

import msgspec

from noctule.cli import main, output
from noctule.core.keyspace import commands
from noctule.core.keyspace.state import State
from noctule.core.keyspace.values import extension_hook
from noctule.core.meta import objects
from noctule.core.meta.records import Kind, read_records, write_record
from noctule.core.roster.members import Member
from noctule.core.wire import frames, messages
from noctule.node import node

OLDER = "0.0.1"
NEWER = "99.0.0"
MOTTOS_FILE = "mottos.json"


class NewerMember(Member, frozen=True):
    """As a later release has it."""

    motto: str = ""


def motto_of(number: int) -> str:
    """What the later release gave a member."""
    return f"motto of node {number}"


def become_older() -> None:
    """Be an earlier release."""
    be(OLDER)
    node.FEATURES = ()  # type: ignore[misc]
    for table in (commands.COMMANDS, commands._BY_NAME):
        for name in [name for name, spec in table.items() if spec.feature is not None and spec.name != b"FLUSHDB"]:
            del table[name]
    known = tuple(kind for kind in get_args(messages.PeerMessage) if kind is not messages.Published)
    decoder = msgspec.msgpack.Decoder(list[tuple[int, Union[known]]], ext_hook=extension_hook)  # type: ignore[valid-type]  # noqa: UP007
    frames._decoder = decoder


def become_newer() -> None:
    """Be a later release, which gives each member that has none a motto."""
    be(NEWER)

    def write(state: State, kind: Kind, name: int | str, value: msgspec.Struct) -> None:
        write_record(state, kind, name, value)
        if kind is Kind.MEMBER:
            [member] = [each for each in read_records(state, kind, NewerMember) if each.id == name]
            if not member.motto:
                write_record(state, kind, name, msgspec.structs.replace(member, motto=motto_of(member.id)))

    objects.write_record = write  # type: ignore[attr-defined]
    stop: Callable[[node.LocalNode], object] = node.LocalNode.stop

    async def stop_and_tell(self: node.LocalNode) -> None:
        mottos = {each.id: each.motto for each in read_records(self.steward.meta, Kind.MEMBER, NewerMember)}
        Path(self.config.data_dir, MOTTOS_FILE).write_text(json.dumps(mottos))
        await stop(self)  # type: ignore[misc]

    node.LocalNode.stop = stop_and_tell  # type: ignore[method-assign]


def be(version: str) -> None:
    """Call oneself that."""
    output.installed_version = lambda: version  # type: ignore[assignment]


if __name__ == "__main__":
    {"older": become_older, "newer": become_newer}[sys.argv.pop(1)]()
    sys.exit(main.main())
