"""Whether transactions that append to lists and read them are strictly serializable.

After Kingsbury and Alvaro, "Elle: inferring isolation anomalies from experimental observations" (VLDB 2020): as every
appended value is unique, a read shows in which order the values before it were appended. From that follow edges between
transactions, and a cycle of them is a violation that no order explains. Real time is an edge, too.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from noctule.base.errors import ConfigError
from noctule.verify.checkers.graph import Edge, Graph, add_edge, shortest_cycle
from noctule.verify.checkers.history import Operation
from noctule.verify.checkers.violation import Violation, text_of, value_text

OPERATIONS = frozenset({"append", "read", "txn"})


def problem(operation: Operation) -> str:
    """Why arguments or result are not a list-append's; empty when they are."""
    if operation.op == "append":
        return "" if len(operation.arguments) == 1 and _is_value(operation.arguments[0]) else "append takes one value"
    if operation.op == "read":
        if operation.arguments:
            return "read takes no arguments"
        return "" if operation.outcome != "ok" or _is_list(operation.result) else "the result of read is a list"
    answers = operation.result if operation.outcome == "ok" else [None] * len(operation.arguments)
    if not isinstance(answers, list) or len(answers) != len(operation.arguments):
        return "the result of txn is a list with one answer for each part"
    for part, answer in zip(operation.arguments, answers, strict=True):
        match part:
            case ["append", str(), value] if _is_value(value):
                pass
            case ["read", str()]:
                if operation.outcome == "ok" and not _is_list(answer):
                    return "the answer to a read is a list"
            case _:
                return 'each part of txn is ["append", key, value] or ["read", key]'
    return ""


def keys_of(operation: Operation) -> list[str]:
    """The keys that an operation touches."""
    if operation.op == "txn":
        return [part[1] for part in operation.arguments]
    return [] if operation.key is None else [operation.key]


def find_violation(operations: Sequence[Operation]) -> Violation | None:
    """The plainest violation, None when the operations are strictly serializable as far as reads show.

    `ConfigError` when a value is appended to a key twice: then reads tell nothing.
    """
    return _Inference([each for each in operations if each.outcome != "fail"]).run(
        [each for each in operations if each.outcome == "fail"]
    )


@dataclass(slots=True)
class _Key:
    """What is known of one key."""

    appended: dict[object, int] = field(default_factory=dict)
    """Value to transaction."""
    reads: list[tuple[int, list[object]]] = field(default_factory=list)
    """Transaction, and what it saw of others."""
    longest: tuple[int, list[object]] = (-1, [])


class _Inference:
    def __init__(self, operations: list[Operation]) -> None:
        self._operations = operations
        self._keys: dict[str, _Key] = {}

    def run(self, failed: list[Operation]) -> Violation | None:
        for index, operation in enumerate(self._operations):
            found = self._gather(index, operation)
            if found is not None:
                return found
        aborted = {(key, part[-1]): each for each in failed for key, part in _parts(each) if part[0] == "append"}
        for name, key in self._keys.items():
            found = self._direct(name, key, aborted)
            if found is not None:
                return found
        return self._cycle() or self._lost()

    def _gather(self, index: int, operation: Operation) -> Violation | None:
        """Note appends and reads; a transaction must see its own appends, and the same of others each time."""
        own: dict[str, list[object]] = {}
        seen: dict[str, list[object]] = {}
        answers = operation.result if operation.op == "txn" else [operation.result]
        for number, (name, part) in enumerate(_parts(operation)):
            key = self._keys.setdefault(name, _Key())
            if part[0] == "append":
                if key.appended.setdefault(part[-1], index) != index or part[-1] in own.get(name, ()):
                    raise ConfigError(f"two appends of {value_text(part[-1])} to key {name!r}: values must be unique")
                own.setdefault(name, []).append(part[-1])
                continue
            if operation.outcome != "ok":
                continue
            answer = answers[number]
            mine = own.get(name, [])
            others = answer[: len(answer) - len(mine)]
            if answer[len(others) :] != mine or (name in seen and seen[name] != others):
                why = f"process {operation.process} did not see its own appends, or saw another list the second time"
                return _violation("internal", name, why, [operation])
            if name not in seen:
                seen[name] = others
                key.reads.append((index, others))
                if len(others) > len(key.longest[1]):
                    key.longest = (index, others)
        return None

    def _direct(self, name: str, key: _Key, aborted: dict[tuple[str, object], Operation]) -> Violation | None:
        """What the reads of one key show without any order between transactions."""
        reader, longest = key.longest
        for index, values in key.reads:
            operation = self._operations[index]
            if values != longest[: len(values)]:
                why = f"two reads of {name!r} disagree about the order: neither list is the beginning of the other"
                return _violation("incompatible-order", name, why, [self._operations[reader], operation])
        if len(set(longest)) != len(longest):
            twice = next(value for value in longest if longest.count(value) > 1)
            why = f"a read of {name!r} saw {value_text(twice)} twice, which was appended once at most"
            append = key.appended.get(twice, reader)
            where = [self._operations[index] for index in dict.fromkeys((append, reader))]
            return _violation("duplicate-append", name, why, where)
        for value in longest:
            if value in key.appended:
                continue
            failed = aborted.get((name, value))
            where = [self._operations[reader]]
            if failed is not None:
                why = f"a read of {name!r} saw {value_text(value)}, whose append had failed"
                return _violation("aborted-read", name, why, [failed, *where])
            return _violation(
                "invented-value", name, f"a read of {name!r} saw {value_text(value)}, which nobody appended", where
            )
        return None

    def _cycle(self) -> Violation | None:
        """A cycle of reasons why each of some transactions came before the next."""
        graph: Graph = [{} for _ in self._operations]
        for key in self._keys.values():
            writers = [key.appended[value] for value in key.longest[1]]
            for before, after in pairwise(writers):
                add_edge(graph, before, after, Edge.WRITE_WRITE)
            for reader, values in key.reads:
                if values:
                    add_edge(graph, writers[len(values) - 1], reader, Edge.WRITE_READ)
                if len(values) < len(writers):
                    add_edge(graph, reader, writers[len(values)], Edge.READ_WRITE)
        for before, after in _real_time(self._operations):
            add_edge(graph, before, after, Edge.REAL_TIME)
        cycle = shortest_cycle(graph)
        if not cycle:
            return None
        steps = [(node, cycle[(at + 1) % len(cycle)]) for at, node in enumerate(cycle)]
        edges = [graph[before][after] for before, after in steps]
        reasons = [self._reason(before, after, edge) for (before, after), edge in zip(steps, edges, strict=True)]
        sentence = "; ".join(words for words, _ in reasons)
        transactions = [self._operations[node] for node in cycle]
        witnesses = {index for _, index in reasons if index is not None and index not in cycle}
        keys = [name for each in transactions for name in keys_of(each)]
        shared = max(dict.fromkeys(keys), key=keys.count)
        violation = _violation(
            _kind(edges), shared, f"each came before the next, in a circle: {sentence}", transactions
        )
        shown = sorted((self._operations[index] for index in (*cycle, *witnesses)), key=lambda each: each.start)
        return replace(violation, operations=tuple(shown))

    def _reason(self, before: int, after: int, edge: Edge) -> tuple[str, int | None]:
        """Why one came before the other, in words; and the read that shows in which order values were appended."""
        first, second = _name(self._operations[before]), _name(self._operations[after])
        if edge is Edge.REAL_TIME:
            return f"{first} had ended before the start of {second}", None
        for name, key in self._keys.items():
            witness, values = key.longest
            writers = [key.appended[value] for value in values]
            if edge is Edge.WRITE_WRITE:
                for at in range(1, len(values)):
                    if (writers[at - 1], writers[at]) == (before, after):
                        earlier, later = value_text(values[at - 1]), value_text(values[at])
                        return f"{first} appended {earlier} to {name!r} before {later} of {second}", witness
                continue
            reader = after if edge is Edge.WRITE_READ else before
            for index, seen in key.reads:
                count = len(seen)
                if index != reader:
                    continue
                if edge is Edge.WRITE_READ and count and writers[count - 1] == before:
                    return f"{first} appended {value_text(values[count - 1])} to {name!r}, seen by {second}", None
                if edge is Edge.READ_WRITE and count < len(values) and writers[count] == after:
                    unseen = value_text(values[count])
                    return f"{first} did not see {unseen}, appended to {name!r} by {second}", witness
        raise AssertionError("an edge has a reason")

    def _lost(self) -> Violation | None:
        """An append that was acknowledged before a read began, and that no read ever saw."""
        for name, key in self._keys.items():
            observed = set(key.longest[1])
            reads = [self._operations[index] for index, _ in key.reads]
            last = max(reads, key=lambda each: each.start, default=None)
            if last is None:
                continue
            for value, index in key.appended.items():
                append = self._operations[index]
                if value in observed or append.outcome != "ok" or append.end is None or append.end >= last.start:
                    continue
                if last is append:
                    continue
                why = (
                    f"process {append.process} appended {value_text(value)} to {name!r} and was told so, and process "
                    f"{last.process} asked later and did not see it"
                )
                return _violation("lost-append", name, why, [append, last])
        return None


def _parts(operation: Operation) -> Iterator[tuple[str, Sequence[object]]]:
    """Key and part of each step of a transaction; a single append or read is a transaction of one step."""
    if operation.op == "txn":
        for part in operation.arguments:
            yield part[1], part
    else:
        yield operation.key or "", (operation.op, *operation.arguments)


def _real_time(operations: Sequence[Operation]) -> Iterator[tuple[int, int]]:
    """Who ended before whose start, without what follows from the others."""
    starts = [(each.start, 0, index) for index, each in enumerate(operations)]
    ends = [
        (each.end, 1, index) for index, each in enumerate(operations) if each.outcome == "ok" and each.end is not None
    ]
    newest: list[tuple[float, int]] = []
    """Ended operations, with their ends, that do not all precede another ended one."""
    for time, is_end, index in sorted([*starts, *ends]):
        if is_end:
            start = operations[index].start
            newest = [each for each in newest if each[0] >= start]
            newest.append((time, index))
        else:
            for _, before in newest:
                yield before, index


def _kind(edges: Sequence[Edge]) -> str:
    """Adya's names, with ``-realtime`` where the order of real time is needed."""
    match edges.count(Edge.READ_WRITE):
        case 0:
            name = "G1c" if Edge.WRITE_READ in edges else "G0"
        case 1:
            name = "G-single"
        case _:
            name = "G2-item"
    return f"{name}-realtime" if Edge.REAL_TIME in edges else name


def _name(operation: Operation) -> str:
    return f"[process {operation.process}: {text_of(operation)}]"


def _violation(kind: str, key: str, why: str, operations: Sequence[Operation]) -> Violation:
    ordered = sorted(operations, key=lambda each: each.start)
    offending = max(
        (each for each in operations if each.outcome == "ok"), key=lambda each: each.start, default=ordered[-1]
    )
    return Violation(kind, key, why, tuple(ordered), offending)


def _is_value(value: object) -> bool:
    return value is None or isinstance(value, bool | int | float | str)


def _is_list(value: object) -> bool:
    return isinstance(value, list) and all(_is_value(each) for each in value)
