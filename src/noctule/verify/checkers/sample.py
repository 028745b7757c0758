"""Histories of one atomic object whose clients meet random delays: linearizable by construction.

For measuring the checkers and for testing them. Real histories come from the simulator and from clients.
"""

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from noctule.verify.checkers.history import Operation
from noctule.verify.checkers.models import COUNTER, REGISTER, SET, Model, State

DELAY_S = 0.001
"""The mean from sending to taking effect, and from there to the answer; exponentially distributed."""

_IDLE_S = 0.00005
"""The mean from an answer to the next operation: nearly all clients of a key wait for an answer nearly always."""

_Request = tuple[str, tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class SampleShape:
    """What clients do."""

    operations_count: int
    clients_count: int
    """On this key; each waits for an answer before it goes on."""
    unknown_share: float = 0.0
    """Of operations that get no answer; half of these take effect. From 0 to 1."""
    values_count: int = 0
    """How many values are written to a register again and again; 0: each value once."""
    members_count: int = 20
    """How many members go into a set and out again."""


def sample_history(model: Model, key: str, shape: SampleShape, chance: random.Random) -> list[Operation]:
    """Operations on one untouched key, by their ends; the same chance gives the same history."""
    draw, apply = _WORKLOADS[model.name]
    state = model.initial
    done: list[Operation] = []
    drawn = 0
    # Time, then a client, which is there once only: so no two entries compare further.
    events: list[tuple[float, int, Callable[[float, int], None]]] = []

    def push(time: float, mean_s: float, client: int, event: Callable[[float, int], None]) -> None:
        heapq.heappush(events, (time + chance.expovariate(1 / mean_s), client, event))

    def begin(start: float, client: int) -> None:
        nonlocal drawn
        if drawn == shape.operations_count:
            return
        op, arguments = draw(chance, shape, state, drawn)
        drawn += 1
        is_answered = chance.random() >= shape.unknown_share
        takes_effect = is_answered or chance.random() < 0.5

        def effect(time: float, client: int) -> None:
            nonlocal state
            result = None
            if takes_effect:
                state, result = apply(state, op, arguments)

            def end(time: float, client: int) -> None:
                if is_answered:
                    done.append(Operation(client, op, start, "ok", key, arguments, result, time))
                else:
                    done.append(Operation(client, op, start, "unknown", key, arguments))
                push(time, _IDLE_S, client, begin)

            push(time, DELAY_S, client, end)

        push(start, DELAY_S, client, effect)

    for client in range(shape.clients_count):
        push(0.0, DELAY_S, client, begin)
    while events:
        time, client, event = heapq.heappop(events)
        event(time, client)
    return done


def _draw_register(chance: random.Random, shape: SampleShape, state: State, number: int) -> _Request:
    """Half reads, three tenths writes, and cas of which most expect the value that is there when they are sent."""
    value = chance.randrange(shape.values_count) if shape.values_count else number
    kind = chance.random()
    if kind < 0.5:
        return "read", ()
    if kind < 0.8:
        return "write", (value,)
    return "cas", (state if chance.random() < 0.7 else value - 1, value)


def _apply_register(state: State, op: str, arguments: tuple[Any, ...]) -> tuple[State, Any]:
    if op == "read":
        return state, state
    if op == "write":
        return arguments[0], None
    return (arguments[1], True) if state == arguments[0] else (state, False)


def _draw_counter(chance: random.Random, shape: SampleShape, state: State, number: int) -> _Request:
    """Half reads, half increments by 1 to 3."""
    return ("read", ()) if chance.random() < 0.5 else ("increment", (chance.randrange(1, 4),))


def _apply_counter(state: State, op: str, arguments: tuple[Any, ...]) -> tuple[State, Any]:
    """Increments by 1 are answered without the value, so that their place is for the checker to find."""
    assert isinstance(state, int)
    if op == "read":
        return state, state
    value = state + arguments[0]
    return value, None if arguments[0] == 1 else value


def _draw_set(chance: random.Random, shape: SampleShape, state: State, number: int) -> _Request:
    """A tenth reads of the whole set, three tenths questions for one member, then adds and a few less removes."""
    kind = chance.random()
    if kind < 0.1:
        return "read", ()
    op = "contains" if kind < 0.4 else "add" if kind < 0.75 else "remove"
    return op, (chance.randrange(shape.members_count),)


def _apply_set(state: State, op: str, arguments: tuple[Any, ...]) -> tuple[State, Any]:
    assert isinstance(state, frozenset)
    if op == "read":
        return state, sorted(state)
    member = arguments[0]
    is_there = member in state
    if op == "contains":
        return state, is_there
    if op == "add":
        return state | {member}, not is_there
    return state - {member}, is_there


_WORKLOADS = {
    REGISTER.name: (_draw_register, _apply_register),
    COUNTER.name: (_draw_counter, _apply_counter),
    SET.name: (_draw_set, _apply_set),
}
