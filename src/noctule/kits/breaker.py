"""Circuit breakers for calls to anything: `CircuitBreaker("payments")`, shared by all instances with a store.

    breaker = CircuitBreaker("payments", store="redis://127.0.0.1:7401/0")

    @breaker
    async def pay(order): ...

    async with breaker.guard() as call:
        response = await client.post(...)
        if response.status_code >= 500:
            call.failed()

Without a store each process decides for itself (core/balance/breaker.py). With one, what all instances count is added
up there and all open together (shared_breaker.py). A call costs no round trip while the breaker is closed: what was
counted is exchanged about every `REFRESH_S`, on the back of a call (breaker_standing.py). While the store is away each
process decides for itself again, which `describe` says.
"""

import asyncio
import functools
import inspect
import logging
import threading
from collections.abc import Awaitable, Callable, Coroutine
from random import Random
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar, cast

from redis.asyncio import Redis
from redis.exceptions import RedisError

from noctule.adapters.system_clock import SystemClock
from noctule.base.clock import Clock
from noctule.base.errors import ConfigError, NoctuleError, UnavailableError
from noctule.core.balance.breaker import BreakerPolicy, BreakerState
from noctule.kits.background_loop import BackgroundLoop
from noctule.kits.breaker_standing import (
    AnyPermit,
    Authority,
    BreakerOpenError,
    CircuitBreakerPicture,
    Question,
    Standing,
)
from noctule.kits.shared_breaker import SharedBreaker
from noctule.kits.store import connect

__all__ = ["Authority", "BreakerOpenError", "BreakerPolicy", "BreakerState", "Call", "CircuitBreaker"]

P = ParamSpec("P")
T = TypeVar("T")

STORE_TIMEOUT_S = 0.25
"""For one question: the most that a call is held up by a store that is silent, and then not again for a while."""

THREAD_TIMEOUT_S = 5.0
"""For what synchronous code waits for; a few questions, each of which ends by itself."""

STORE_CONNECTIONS_MAX = 8

NAME_CHARACTERS_MAX = 200

log = logging.getLogger("noctule.kits.breaker")


class CircuitBreaker:
    """One breaker, for all calls to one dependency; its name is its key in the store.

    `store` is a URL as `store.connect` takes, a client that it gave (which stays the caller's to close), or None. All
    instances that share a breaker give it the same policy. A failure is an exception of `failures` that is none of
    `ignored`, or what `Call.failed` was said of; any other exception, such as a cancellation, says nothing. Safe for
    threads. With a store it is used either from one event loop or from synchronous code, which gets a thread for it;
    with a client that was handed in, from that client's event loop only.

    `ConfigError` for what cannot work.
    """

    def __init__(
        self,
        name: str,
        store: Redis | str | None = None,
        policy: BreakerPolicy | None = None,
        *,
        failures: tuple[type[Exception], ...] = (Exception,),
        ignored: tuple[type[Exception], ...] = (),
        clock: Clock = SystemClock(),  # noqa: B008 - it holds nothing
        chance: Random | None = None,
    ) -> None:
        if not 0 < len(name) <= NAME_CHARACTERS_MAX or "{" in name or "}" in name:
            raise ConfigError(
                f"{name[:50]!r} is no name for a breaker: give 1 to {NAME_CHARACTERS_MAX} characters without braces"
            )
        policy, chance = policy or BreakerPolicy(), chance or Random()
        self.name = name
        self._failures = failures
        self._ignored = ignored
        self._clock = clock
        self._lock = threading.Lock()
        self._standing = Standing(name, policy, chance, has_store=store is not None)
        self._owns_client = isinstance(store, str)
        if isinstance(store, str):
            store = connect(
                store,
                connect_timeout_s=STORE_TIMEOUT_S,
                answer_timeout_s=STORE_TIMEOUT_S,
                connections_max=STORE_CONNECTIONS_MAX,
            )
        self._client = store
        self._shared = SharedBreaker(store, name, policy, chance) if store is not None else None
        self._background = BackgroundLoop(f"breaker-{name}")
        """Where synchronous code asks the store."""
        self._is_sync: bool | None = None
        """Who asks the store; None before the first question."""

    def guard(self) -> "Call":
        """A context manager around one call, for ``with`` and ``async with``; raises `BreakerOpenError` on entry."""
        return Call(self)

    def __call__(self, function: Callable[P, T]) -> Callable[P, T]:
        """Decorate a function, or a coroutine function, so that each call of it is guarded."""
        if inspect.iscoroutinefunction(function):
            awaited = cast("Callable[P, Awaitable[Any]]", function)

            @functools.wraps(function)
            async def guarded_async(*args: P.args, **kwargs: P.kwargs) -> Any:
                async with self.guard():
                    return await awaited(*args, **kwargs)

            return cast("Callable[P, T]", guarded_async)

        @functools.wraps(function)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
            with self.guard():
                return function(*args, **kwargs)

        return guarded

    def describe(self) -> CircuitBreakerPicture:
        """A frozen picture, as far as this process knows; asks nobody."""
        with self._lock:
            return self._standing.describe(self._clock.now())

    async def aclose(self) -> None:
        """Close the connections to the store, if they are its own. Harmless the second time."""
        if self._owns_client and self._client is not None:
            await self._client.aclose()

    def close(self) -> None:
        """The same for synchronous code, and the end of its thread."""
        if self._is_sync:
            try:
                self._background.call(self.aclose(), STORE_TIMEOUT_S)
            except (TimeoutError, UnavailableError):
                pass  # The sockets go with the thread's loop.
        self._background.close()

    # What a Call does.

    def _begin(self) -> AnyPermit | Question:
        with self._lock:
            return self._standing.begin(self._clock.now())

    def _end(self, permit: AnyPermit, error: BaseException | None, *, has_failed: bool) -> Question | None:
        with self._lock:
            if error is None or isinstance(error, self._ignored):
                return self._standing.end(permit, not has_failed, self._clock.now())
            if isinstance(error, self._failures):
                return self._standing.end(permit, False, self._clock.now())
            return self._standing.give_up(permit)

    async def _permit_after(self, question: Question) -> AnyPermit:
        """Ask until there is a permit; raises `BreakerOpenError` when there is none to be had."""
        while True:
            permit = await self._ask(question)
            if permit is not None:
                return permit
            step = self._begin()
            if not isinstance(step, Question):
                return step
            question = step

    async def _ask(self, question: Question) -> AnyPermit | None:
        """Put one question to the store, and take its answer or its silence for what it says."""
        if self._shared is None:
            raise AssertionError("without a store there is no question")
        with self._lock:
            before = self._standing.describe(self._clock.now())
        try:
            async with asyncio.timeout(STORE_TIMEOUT_S):
                view = await self._shared.ask(question)
        except (RedisError, OSError, TimeoutError, NoctuleError) as error:
            with self._lock:
                self._standing.lost(question, self._clock.now())
            if before.authority is Authority.SHARED:
                log.warning("breaker_store_lost", extra={"breaker": self.name, "reason": type(error).__name__})
            return None
        except asyncio.CancelledError:
            with self._lock:
                self._standing.dropped(question)
            raise
        with self._lock:
            permit = self._standing.heard(question, view, self._clock.now())
        if before.authority is not Authority.SHARED:
            log.info("breaker_store_back", extra={"breaker": self.name})
        if view.state is not before.breaker.state:
            facts = {"breaker": self.name, "state": view.state, "calls": view.calls, "failures": view.failures}
            log.warning("breaker_changed", extra=facts)
        return permit

    def _settle_world(self, question: Question, *, is_sync: bool) -> None:
        """A client of the store belongs to one event loop, so the first question decides whose the breaker is."""
        with self._lock:
            if self._is_sync is None and (self._owns_client or not is_sync):
                self._is_sync = is_sync
            if self._is_sync is not is_sync:
                self._standing.dropped(question)
                raise ConfigError(
                    f"the breaker {self.name!r} has a store and is used by synchronous code and from an event loop; "
                    "make one for each with the store's URL, under the same name: the store joins them"
                )

    def _in_thread(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            return self._background.call(work, THREAD_TIMEOUT_S)
        except TimeoutError as error:
            raise UnavailableError(f"the breaker {self.name!r} could not ask its store: {error}") from None


class Call:
    """One guarded call; see `CircuitBreaker.guard`. Used once."""

    __slots__ = ("_breaker", "_has_failed", "_permit")

    def __init__(self, breaker: CircuitBreaker) -> None:
        self._breaker = breaker
        self._permit: AnyPermit | None = None
        self._has_failed = False

    def failed(self) -> None:
        """Let the call count as a failure though it raises nothing, as for an answer with status 503."""
        self._has_failed = True

    async def __aenter__(self) -> Self:
        step = self._breaker._begin()
        if isinstance(step, Question):
            self._breaker._settle_world(step, is_sync=False)
            step = await self._breaker._permit_after(step)
        self._permit = step
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        question = self._finish(error)
        if question is not None:
            await self._breaker._ask(question)

    def __enter__(self) -> Self:
        step = self._breaker._begin()
        if isinstance(step, Question):
            self._breaker._settle_world(step, is_sync=True)
            step = self._breaker._in_thread(self._breaker._permit_after(step))
        self._permit = step
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        question = self._finish(error)
        if question is not None:
            try:
                self._breaker._in_thread(self._breaker._ask(question))
            except UnavailableError:
                pass  # The call itself is over, and a lease ends by itself.

    def _finish(self, error: BaseException | None) -> Question | None:
        permit, self._permit = self._permit, None
        return None if permit is None else self._breaker._end(permit, error, has_failed=self._has_failed)
