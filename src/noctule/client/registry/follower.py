"""Follows one service in the registry by blocking queries, and keeps its list on disk.

Two tasks: one asks and waits, the other writes, so that a slow disk delays no news. held_list.py decides what an answer
means. How such queries are to be asked: Consul's HTTP API, "Blocking Queries".
"""

import asyncio
import logging
from dataclasses import dataclass
from random import Random

from noctule.base.clock import Clock
from noctule.base.errors import UnavailableError
from noctule.client.registry.endpoints import Endpoint
from noctule.client.registry.held_list import HeldList, ListPicture, Source
from noctule.client.registry.list_files import ListFiles
from noctule.client.registry.registry_client import RegistryClient

WAIT_S = 30.0
"""How long the registry may hold a question. A registry whose machine died silently is noticed after so long."""

START_WAIT_S = 1.0
"""At the start so long the registry is waited for before the list from disk is used; if it refuses, not so long."""

PAUSE_S_FIRST = 0.1
PAUSE_S_MAX = 10.0
"""After all URLs have failed: by chance up to the first, twice as much each time, up to the second."""

PAUSE_S_MAX_EMPTY = 1.0
"""The same while the list is empty: until the registry is heard, nobody can be called."""

GAP_S = 0.02
"""Between an answer and the next question: changes that come together are read together."""

POLL_S = 1.0
"""Between questions to a registry that answers at once though nothing has changed."""

SAVE_GAP_S = 1.0
"""A list that changes all the time is written this often."""
SAVE_AGAIN_S = 3600.0
"""A list that does not change is written this often, so that it is not too old when it is needed."""

log = logging.getLogger("noctule.registry.client")


@dataclass(frozen=True, slots=True)
class FollowerPicture:
    """One service that is followed."""

    service: str
    tag: str
    list: ListPicture
    answers: int
    """Of the registry, since the beginning."""
    failures: int
    """Questions without an answer, since the beginning."""
    changes: int
    """How often the list in force became another, since the beginning."""
    write_failures: int
    """Of all lists of this process."""


class Follower:
    """The list of one service, as good as it can be had. `run` is a task of its own, for as long as it is followed."""

    def __init__(
        self,
        service: str,
        tag: str,
        client: RegistryClient,
        files: ListFiles | None,
        protect_s: float,
        clock: Clock,
        chance: Random,
    ) -> None:
        self.service = service
        self.tag = tag
        self.version = 0
        """Rises with each change of the list."""
        self._client = client
        self._files = files
        self._clock = clock
        self._chance = chance
        self._list = HeldList(protect_s)
        self._settled = asyncio.Event()
        self._changed = asyncio.Event()
        self._unsaved = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._answers = 0
        self._failures = 0
        self._failures_in_a_row = 0

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """Those in force now."""
        return self._list.endpoints

    @property
    def is_known(self) -> bool:
        """Whether there is a list at all, be it empty."""
        return self._list.source is not Source.NONE

    async def run(self) -> None:
        """Follow, until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._follow(), name=f"follow-{self.service}")
                if self._files is not None:
                    tasks.create_task(self._save(self._files), name=f"save-{self.service}")
        finally:
            if self._timer is not None:
                self._timer.cancel()

    async def wait_settled(self, timeout_s: float) -> None:
        """Wait until the registry has answered, or will not soon and there is a list from disk.

        `UnavailableError` after `timeout_s` without any list.
        """
        if self._settled.is_set():
            return
        try:
            async with asyncio.timeout(min(START_WAIT_S, timeout_s)):
                await self._settled.wait()
        except TimeoutError:
            if self.is_known:
                return
            try:
                async with asyncio.timeout(max(0.0, timeout_s - START_WAIT_S)):
                    await self._settled.wait()
            except TimeoutError:
                raise UnavailableError(
                    f"no registry has answered within {timeout_s:g} s and there is no list of {self.service!r} from "
                    f"before; the last one asked was {self._client.preferred_url}"
                ) from None

    async def wait_changed(self, version: int) -> None:
        """Wait until the list is another than that of this version."""
        while self.version == version:
            await self._changed.wait()

    def describe(self) -> FollowerPicture:
        """A frozen picture, for status and tests."""
        return FollowerPicture(
            self.service,
            self.tag,
            self._list.describe(self._clock.now()),
            self._answers,
            self._failures,
            self.version,
            self._files.write_failures if self._files else 0,
        )

    async def _follow(self) -> None:
        if self._files is not None:
            wall_ms = self._clock.wall_ms()
            saved = await asyncio.to_thread(self._files.load, self.service, self.tag, wall_ms)
            if saved is not None:
                age_s = (wall_ms - saved.saved_ms) / 1000
                self._list.remember(saved.endpoints, saved.index, age_s, self._clock.now())
                self._note_change()
        while True:
            pause_s = await self._ask()
            await asyncio.sleep(pause_s)

    async def _ask(self) -> float:
        """One question and what came of it; gives the pause until the next."""
        index = self._list.next_index
        begun = self._clock.now()
        try:
            answer = await self._client.ask(self.service, self.tag, index, WAIT_S)
        except UnavailableError as error:
            self._note_failure(error)
            rounds, position = divmod(self._failures_in_a_row, self._client.url_count)
            longest_s = PAUSE_S_MAX if self.endpoints else PAUSE_S_MAX_EMPTY
            return 0.0 if position else self._chance.uniform(0, min(longest_s, PAUSE_S_FIRST * 2.0 ** min(rounds, 32)))
        if self._failures_in_a_row >= self._client.url_count:
            log.info("registry_back", extra={"service": self.service})
        self._failures_in_a_row = 0
        self._answers += 1
        now = self._clock.now()
        if self._list.heard(answer.index, answer.instances, now):
            self._note_change()
        elif self._answers == 1:
            # The list of before is still true, and its age begins anew.
            self._unsaved.set()
        self._schedule_advance()
        self._settled.set()
        is_news = answer.index not in (0, index)
        return GAP_S if is_news or now - begun > POLL_S else self._chance.uniform(POLL_S / 2, POLL_S)

    def _note_failure(self, error: UnavailableError) -> None:
        self._failures += 1
        self._failures_in_a_row += 1
        self._list.lost()
        if self._failures_in_a_row == self._client.url_count:
            facts = {"service": self.service, "endpoints": len(self.endpoints), "reason": str(error)}
            log.warning("registry_lost", extra=facts)
        if self._failures_in_a_row >= self._client.url_count and self.is_known:
            self._settled.set()

    def _note_change(self) -> None:
        self.version += 1
        self._unsaved.set()
        self._changed.set()
        self._changed = asyncio.Event()

    def _schedule_advance(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = self._list.next_deadline()
        if deadline is not None:
            delay_s = max(0.0, deadline - self._clock.now())
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._advance)

    def _advance(self) -> None:
        if self._list.advance(self._clock.now()):
            self._note_change()
        self._schedule_advance()

    async def _save(self, files: ListFiles) -> None:
        while True:
            try:
                async with asyncio.timeout(SAVE_AGAIN_S):
                    await self._unsaved.wait()
            except TimeoutError:
                pass
            self._unsaved.clear()
            picture = self._list.describe(self._clock.now())
            if picture.source is Source.LIVE:
                wall_ms = self._clock.wall_ms()
                await asyncio.to_thread(files.save, self.service, self.tag, picture.index, picture.endpoints, wall_ms)
                await asyncio.sleep(SAVE_GAP_S)
