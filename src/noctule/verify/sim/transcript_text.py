"""What happened in a group driven by hand, as text: one line for each, with every field of every message."""

from typing import assert_never

from noctule.core.raft import events as raft
from noctule.core.raft.membership import MARK, Membership, decode_membership
from noctule.core.raft.messages import Entry, Message
from noctule.verify.sim.driving import Asked, Crashed, Delivered, Happening, Letter, Lost, Stored, Synced

DATA_SHOWN_BYTES_MAX = 16
"""Longer data is shown by its size."""
_SHOWN_IF_SET = ("directory", "quiet")


def line_of(happening: Happening) -> str:
    """One line for one happening."""
    match happening:
        case Delivered(letter):
            return letter_text(letter, "->")
        case Lost(letter, reason):
            return f"{letter_text(letter, '-x')} ({reason})"
        case Synced(node, stored):
            return f"{node} has synced {stored_text(stored)}"
        case Crashed(node, unsynced):
            return f"{node} crashes and loses {unsynced} unsynced"
        case Asked(node, effect, held):
            return f"{node} {effect_text(effect)}" + (
                ", not synced yet" if held and isinstance(effect, raft.Persist | raft.SaveChunk) else ""
            )


def letter_text(letter: Letter, arrow: str) -> str:
    """Sender, receiver, kind and every field."""
    return f"{letter.sender} {arrow} {letter.to} {message_text(letter.message)}"


def message_text(message: Message) -> str:
    """The kind of a message and every field; the directory only where it is not the first, quiet only where it is."""
    shown = [name for name in message.__struct_fields__ if name not in _SHOWN_IF_SET or getattr(message, name)]
    values = [f"{name}={value_text(getattr(message, name))}" for name in shown]
    return " ".join([type(message).__name__, *values])


def value_text(value: object) -> str:
    """A field of a message."""
    match value:
        case bool():
            return "yes" if value else "no"
        case bytes() if value[:1] == MARK:
            return f"({membership_text(decode_membership(value))})"
        case bytes():
            return data_text(value)
        case [*entries]:
            return f"[{' '.join(entry_text(entry) for entry in entries)}]"
        case _:
            return str(value)


def entry_text(entry: object) -> str:
    """An entry's term and data; the no-op has none."""
    if not isinstance(entry, Entry):
        return str(entry)
    if entry.data[:1] == MARK:
        return f"{entry.term}:({membership_text(decode_membership(entry.data))})"
    return f"{entry.term}:{data_text(entry.data)}" if entry.data else f"{entry.term}:-"


def membership_text(membership: Membership) -> str:
    """Who belongs to the group; the two halves of a joint one are joined by &&."""
    halves = [half for half in (membership.voters, membership.outgoing) if half]
    parts = ["voters " + " && ".join(",".join(map(str, half)) for half in halves) if halves else "nobody known"]
    parts += [
        f"{name} {','.join(map(str, nodes))}"
        for name in ("learners", "learners_next", "returning")
        if (nodes := getattr(membership, name))
    ]
    parts += [f"directory {directory} of {node}" for node, directory in membership.directories]
    return "; ".join([*parts, "auto_leave"] if membership.auto_leave else parts)


def data_text(data: bytes) -> str:
    """Short data itself, longer by its size."""
    if len(data) <= DATA_SHOWN_BYTES_MAX:
        return data.decode("ascii", "backslashreplace").replace(" ", "_")
    return f"({len(data)} bytes)"


def effect_text(effect: raft.Effect) -> str:
    """What a node asked for."""
    match effect:
        case raft.Persist():
            waiting = f", then sends {len(effect.after)}" if effect.after else ""
            return f"persists {stored_text(effect)}{waiting}"
        case raft.Commit(first_index=first, entries=entries):
            return f"commits {first}..{first + len(entries) - 1} {value_text(entries)}"
        case raft.Proposed(index=index, term=term):
            return f"appends the proposal at {index}@{term}"
        case raft.ProposalRefused(leader=leader):
            return f"refuses the proposal, leader {leader or 'unknown'}"
        case raft.MembershipRefused(reason=reason):
            return f"refuses the change: {reason}"
        case raft.MembershipChanged(index=index, membership=membership, committed=committed):
            does = "has committed" if committed else "goes by"
            return f"{does} the membership at {index}: {membership_text(membership)}"
        case raft.ReadReady(context=context, index=index):
            return f"has read {context} ready at {index}"
        case raft.ReadRefused(context=context, leader=leader):
            return f"refuses read {context}, leader {leader or 'unknown'}"
        case raft.RoleChanged(role=role, term=term, leader=leader):
            return f"is {role} in term {term}, leader {leader or 'unknown'}"
        case raft.OpenSnapshot():
            return "opens its snapshot"
        case raft.LoadChunk(index=index, number=number):
            return f"loads chunk {number} of snapshot {index}"
        case raft.KeepSnapshots(indexes=indexes):
            return f"closes its snapshots but {', '.join(map(str, indexes)) or 'none'}"
        case raft.SaveChunk():
            return f"saves {stored_text(effect)}"
        case raft.DropChunks():
            return "drops the chunks of a snapshot"
        case raft.Restore(index=index, term=term):
            return f"restores {index}@{term}"
        case raft.Send(to=to, message=message):
            return f"sends to {to} {message_text(message)}"
        case _:
            assert_never(effect)


def stored_text(persist: Stored) -> str:
    """What is to become durable: hard state, where the log begins, entries; or a chunk of a snapshot."""
    if isinstance(persist, raft.DropChunks):
        return "that the chunks of a snapshot are dropped"
    if isinstance(persist, raft.SaveChunk):
        place = f"chunk {persist.number} of {persist.count} of snapshot {persist.index}@{persist.term}"
        return f"{place} {value_text(persist.data)}"
    parts = []
    if persist.hard_state is not None:
        parts.append(f"term {persist.hard_state.term} vote {persist.hard_state.vote or 'none'}")
    if persist.mark is not None:
        parts.append(f"{'a new log' if persist.replace_log else 'the log'} after {persist.mark[0]}@{persist.mark[1]}")
    if persist.entries:
        last = persist.first_index + len(persist.entries) - 1
        parts.append(f"{persist.first_index}..{last} {value_text(persist.entries)}")
    return ", ".join(parts) or "nothing new"
