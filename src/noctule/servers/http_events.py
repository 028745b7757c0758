"""Changes of the cluster as they come, by server-sent events (WHATWG HTML, "Server-sent events").

A client is told what differs from what it was told before. Nothing is kept for one that reads slowly: it gets the
difference as of when it reads on, and may miss what came and went in between.
"""

import asyncio
import time
from collections.abc import AsyncIterator

import msgspec

from noctule.core.meta.views import (
    Kind,
    OperationView,
    running_operations,
    view_members,
    view_migration,
    view_partition,
)
from noctule.core.roster.members import MemberState
from noctule.node.api import Administration
from noctule.servers.http_route import Answer, Call

CONTENT_TYPE = "text/event-stream"
PAUSE_S = 0.25
"""Between two looks at most so often, whatever goes on."""
LOOK_S = 1.0
"""So often it is looked without a ring too: that a node is silent rings nothing."""
HEARTBEAT_S = 5.0
"""A comment is sent when nothing else was for so long, and so a client that has gone is noticed."""


async def get_events(call: Call) -> Answer:
    """What changes from now on, after all members as they are."""
    return Answer(200, b"", CONTENT_TYPE, stream=stream_events(call.node.cluster))


class Told:
    """What one client was told last."""

    def __init__(self, cluster: Administration) -> None:
        self._cluster = cluster
        self._members: dict[int, tuple[MemberState, bool]] = {}
        self._epoch = cluster.meta.map.epoch
        self._partitions: set[int] = {partition.id for partition in cluster.meta.map}
        self._running: dict[tuple[Kind, int], OperationView] = {}

    def news(self) -> list[bytes]:
        """What has changed since the last call. Costs the members, what is on its way, and after a change the map."""
        meta, board = self._cluster.meta, self._cluster.board
        news: list[bytes] = []
        states = {node: (each.state, self._cluster.is_alive(node)) for node, each in meta.roster.items()}
        if states != self._members:
            views = view_members(meta, board, self._cluster.is_alive)
            news += [event("member", view) for view in views if states[view.id] != self._members.get(view.id)]
            self._members = states
        if meta.map.epoch != self._epoch:
            before, self._epoch = self._epoch, meta.map.epoch
            now = {partition.id for partition in meta.map}
            news += [event("partition_gone", {"id": gone}) for gone in sorted(self._partitions - now)]
            news += [event("partition", view_partition(board, each)) for each in meta.map if each.epoch > before]
            self._partitions = now
        running = {(view.kind, view.id): view for view in running_operations(meta, board)}
        news += [event("migration", view) for key, view in running.items() if view != self._running.get(key)]
        news += [event("migration", self._ended(view)) for key, view in self._running.items() if key not in running]
        self._running = running
        return news

    def _ended(self, view: OperationView) -> OperationView:
        """How it ended, as far as that is remembered."""
        meta = self._cluster.meta
        if view.kind == "migration" and view.id in meta.migrations:
            return view_migration(self._cluster.board, meta.migrations[view.id])
        if view.kind == "merge" and view.id in meta.merges:
            merge = meta.merges[view.id]
            return msgspec.structs.replace(view, stage=merge.stage, note=merge.note, ended_ms=merge.ended_ms)
        return msgspec.structs.replace(view, stage="done" if meta.map.get(view.other) else "aborted")


async def stream_events(cluster: Administration) -> AsyncIterator[bytes]:
    """Events until the consumer stops asking; each look is at most `LOOK_S` after the last."""
    told = Told(cluster)
    yield event("cluster", {"cluster_id": cluster.meta.cluster_id, "epoch": cluster.meta.map.epoch})
    sent_at = looked_at = time.monotonic()
    while True:
        for piece in told.news():
            sent_at = time.monotonic()
            yield piece
        if time.monotonic() - sent_at >= HEARTBEAT_S:
            sent_at = time.monotonic()
            yield b": still here\n\n"
        await cluster.watch.next_change(LOOK_S)
        early_s = PAUSE_S - (time.monotonic() - looked_at)
        if early_s > 0:
            await asyncio.sleep(early_s)
        looked_at = time.monotonic()


def event(name: str, data: object) -> bytes:
    """One event; JSON has no line break, so its data are one line."""
    return b"event: %s\ndata: %s\n\n" % (name.encode(), msgspec.json.encode(data))
