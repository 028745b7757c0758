"""That Sentinel's clients are sent to another node: noticed, logged, and told to whoever has subscribed here.

Each node tells its own subscribers, as each Sentinel does; clients such as ioredis and Jedis listen to all they know.
"""

import asyncio
import logging
from collections.abc import Callable

from noctule.node.cluster_view import ClusterMember, ClusterView

CHANNEL = b"+switch-master"
LOOK_S = 0.1
"""Between two looks: a client that was not told finds out by itself when its connection closes."""

log = logging.getLogger("noctule.resp")


class MasterWatch:
    """One node's, from `start` to `stop`."""

    def __init__(
        self, view: ClusterView, tell: Callable[[bytes, bytes], object] = lambda _channel, _message: None
    ) -> None:
        """`tell` is given the channel and, for each name of the service, a message: name, old place, new place."""
        self._view = view
        self._tell = tell
        self._master: ClusterMember | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to look, in the running event loop."""
        self._timer = asyncio.get_running_loop().call_later(LOOK_S, self.start)
        self.look()

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def look(self) -> None:
        """Compare with the last look; whom the first one finds is no news."""
        before = self._master
        if before is not None and self._view.master_id() == before.id:
            return
        after = self._master = self._view.master()
        if before is None or before.id == after.id:
            return
        log.info("service_master_changed", extra={"fields": {"before": before.id, "after": after.id}})
        for name in self._view.service_names:
            old, new = before.plain, after.plain
            self._tell(CHANNEL, f"{name} {old.host} {old.port} {new.host} {new.port}".encode())
