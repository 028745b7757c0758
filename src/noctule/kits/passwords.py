"""Passwords by Argon2id, off the event loop and within a bound of memory; and signing in with them.

Each hash takes `memory_kib` for its whole time, so `workers * memory_kib` is what this can take of the machine, and who
finds `WAITING_MAX` before it is refused (503) instead of waiting. A user who is not there costs the same hash as one
who is. Needs ``noctule[auth]``.
"""

import asyncio
import hashlib
import unicodedata
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar, TypeVarTuple

from pwdlib.hashers.argon2 import Argon2Hasher

from noctule.base.errors import ConfigError, RequestError, UnavailableError
from noctule.core.limits.policy import ACCOUNT, AUTHENTICATION, Policy
from noctule.kits.known_devices import Device
from noctule.kits.limiter import Decision, Limiter

Result = TypeVar("Result")
Arguments = TypeVarTuple("Arguments")

PASSWORD_BYTES_MAX = 1024
"""More is refused before it is hashed."""
WAITING_MAX = 64
"""Hashes that wait for a worker."""


@dataclass(frozen=True, slots=True)
class Argon2Cost:
    """What a hash costs; the default is the second recommendation of RFC 9106 4 with one lane. Raises `ConfigError`."""

    memory_kib: int = 64 * 1024
    passes: int = 3
    lanes: int = 1

    def __post_init__(self) -> None:
        # OWASP's password storage cheat sheet has nothing below 7 MiB; 8 KiB a lane is what the algorithm needs.
        if self.memory_kib < 7 * 1024 or self.passes < 1 or not 1 <= self.lanes <= 8:
            raise ConfigError("Argon2: memory_kib must be 7168 or more, passes 1 or more, lanes 1 to 8")


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a password is right."""

    is_right: bool
    new_hash: str | None = field(default=None, repr=False)
    """To be kept in place of the old one, which was made at another cost."""


class Passwords:
    """Hashes and verifies in threads of its own. `close` ends them."""

    def __init__(self, cost: Argon2Cost = Argon2Cost(), *, workers: int = 2) -> None:
        if not 1 <= workers <= 64:
            raise ConfigError("passwords: workers must be 1 to 64")
        self.memory_kib_max = workers * cost.memory_kib
        """What all hashes at once can take."""
        self._hasher = Argon2Hasher(cost.passes, cost.memory_kib, cost.lanes)
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="argon2")
        self._workers = workers
        self._running = 0
        self._nobody: str | None = None

    async def hash(self, password: str) -> str:
        """What to keep of a password. Raises `RequestError` for one that is too long or no text, `UnavailableError`
        when busy."""
        return await self._run(self._hasher.hash, _checked(password))

    async def verify(self, password: str, kept: str | None) -> Verdict:
        """Whether it is the password; None stands for a user who is not there, which takes as long and is never right.

        Raises `RequestError` for a hash that is no Argon2 hash or a password that is too long or no text,
        `UnavailableError` when busy.
        """
        return await self._run(self._verify, _checked(password), kept)

    def close(self) -> None:
        """End the threads once they are done."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _verify(self, password: str, kept: str | None) -> Verdict:
        if kept is None:
            if self._nobody is None:  # Two threads may make it at once; either is good.
                self._nobody = self._hasher.hash("a password that nobody has")
            self._hasher.verify(password, self._nobody)
            return Verdict(False)
        if not self._hasher.identify(kept):
            raise RequestError("the stored password hash is not one of Argon2")
        if not self._hasher.verify(password, kept):
            return Verdict(False)
        return Verdict(True, self._hasher.hash(password) if self._hasher.check_needs_rehash(kept) else None)

    async def _run(self, function: Callable[[*Arguments], Result], *arguments: *Arguments) -> Result:
        if self._running >= self._workers + WAITING_MAX:
            raise UnavailableError("too many passwords are being checked; try again")
        self._running += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)
        finally:
            self._running -= 1


Find: TypeAlias = Callable[[str], Awaitable[tuple[str, str] | None]]
"""By the name that was typed: the subject and the hash that is kept; None when there is no such user."""

Keep: TypeAlias = Callable[[str, str], Awaitable[None]]
"""Keeps another hash of a subject."""


class RateLimitedError(RequestError):
    """Too many attempts; `decision` says when to come back."""

    code = "rate_limited"
    retryable = True

    def __init__(self, decision: Decision) -> None:
        super().__init__(decision.why)
        self.decision = decision


class Login:
    """Signs in by name and password, within limits, whether or not there is such a user.

    Attempts count for the address by `policies` and for the name by `name_policies`, which admit more: who guesses from
    one address is refused before the user is. In a device in which the user signed in before they count for that
    device alone, by `policies`, so nobody who does not have the password can lock the user out of it. Right ones count
    as well, for they cost a hash, too.
    """

    def __init__(
        self,
        passwords: Passwords,
        find: Find,
        keep: Keep | None = None,
        *,
        limiter: Limiter | None = None,
        policies: Sequence[Policy] = (AUTHENTICATION,),
        name_policies: Sequence[Policy] = (ACCOUNT,),
    ) -> None:
        self._passwords = passwords
        self._find = find
        self._keep = keep
        self._limiter = limiter
        self._policies = policies
        self._name_policies = name_policies

    async def check(
        self, name: str, password: str, *, subjects: Sequence[str] = (), device: Device | None = None
    ) -> str | None:
        """The subject; None when name or password is wrong, and nobody can tell which.

        `subjects` are counted besides the name, as `subject_of(client_address(...))` of the request; `device` is the
        ``scope["device"]`` of `KnownDevices`, which knows it again afterwards. Raises `RateLimitedError` without having
        looked at the password, and what `Passwords.verify` raises.
        """
        found = await self._look_up(name) if device is not None and device.has_cookie else None
        known = device.subject(*found) if device is not None and found is not None else None
        await self._count(name, subjects, known)
        found = found or await self._look_up(name)
        verdict = await self._passwords.verify(password, found[1] if found else None)
        if found is None or not verdict.is_right:
            return None
        user, kept = found
        if verdict.new_hash is not None and self._keep is not None:
            await self._keep(user, verdict.new_hash)
            kept = verdict.new_hash
        if device is not None:
            device.trust(user, kept)
        return user

    async def _look_up(self, name: str) -> tuple[str, str] | None:
        return await self._find(name) if _is_text(name) else None

    async def _count(self, name: str, subjects: Sequence[str], known: str | None) -> None:
        """Count the attempt before it is made, for many may be made at once. Raises `RateLimitedError`."""
        if self._limiter is None:
            return
        wanted = [(self._policies, subjects), (self._name_policies, [f"login:{_name_digest(name)}"])]
        if known is not None:
            wanted = [(self._policies, [known])]
        for policies, counted in wanted:
            # One after the other: who is refused for the address uses up nothing of the name.
            decision = await self._limiter.hit(policies, counted) if counted else None
            if decision is not None and not decision.is_admitted:
                raise RateLimitedError(decision)


def _checked(password: str) -> str:
    if not _is_text(password):
        raise RequestError("a password must be text that UTF-8 can write")
    if len(password.encode()) > PASSWORD_BYTES_MAX:
        raise RequestError(f"a password may have {PASSWORD_BYTES_MAX} bytes at most")
    return password


def _is_text(given: str) -> bool:
    """Whether UTF-8 can write it: JSON may hold halves of characters, which neither hashes nor databases take."""
    return not any("\ud800" <= each <= "\udfff" for each in given)


def _name_digest(name: str) -> str:
    # A name may be of any length and hold anything; the store is not told it. What an app may take for the same name,
    # as a full-width letter, is counted as the same.
    same = unicodedata.normalize("NFKC", name).strip().casefold()
    return hashlib.sha256(same.encode(errors="surrogatepass")).hexdigest()[:32]
