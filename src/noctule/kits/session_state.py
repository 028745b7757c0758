"""A web session as the app sees it, and what has to be written for what the app did; pure.

A session is one hash in the store, a field for each key of the session. Only changed fields are written, so two
requests at once that change different keys both survive. Three fields are ours:

- ``__born__``: written with the first save only. A hash without it is no session, so a late write to a hash that
  has expired in the meantime creates nothing that anybody can load.
- ``__dead__``: the tombstone of logout. A hash with it is no session, whatever is written to it afterwards: a request
  that was under way during the logout cannot bring the session back, although nothing spans two commands.
- ``__touched__``: when the time to live was last renewed, so that reading costs a write once a minute at most.

`sessions.py` carries the plans out.
"""

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from noctule.base.errors import RequestError, StorageError, TooLargeError
from noctule.kits.session_cookie import session_digest

SESSION_BYTES_MAX = 64 * 1024
"""Names and encoded values of one session together; it is read whole for each request."""

SESSION_FIELDS_MAX = 128
"""Keys of one session."""

TOUCH_EVERY_S = 60
"""A session that is only read has its time to live renewed this often at most."""

BORN = "__born__"
DEAD = "__dead__"
TOUCHED = "__touched__"
_OURS = (BORN, DEAD, TOUCHED)


@dataclass(frozen=True, slots=True)
class StoredSession:
    """A live session as it was loaded."""

    id: str
    fields: Mapping[str, bytes]
    """The app's keys with their JSON."""
    touched_s: int
    """Seconds since 1970 by the clock of the instance that touched it."""


@dataclass(frozen=True, slots=True)
class SavePlan:
    """What a request leaves to be done; empty when it changed nothing."""

    write_id: str | None = None
    """The session to write to, and to renew the time to live of."""
    changed: Mapping[str, bytes] = field(default_factory=dict)
    """Fields to set, ours among them."""
    removed: tuple[str, ...] = ()
    touch_only: bool = False
    """Nothing of the app's changed: losing this write loses nothing but a minute of life."""
    dead: StoredSession | None = None
    """The session to bury, after `write_id` is written."""
    cookie_id: str | None = None
    """The id to hand out in a cookie."""
    forget_cookie: bool = False


def read_stored(session_id: str, raw: Mapping[bytes, bytes]) -> StoredSession | None:
    """What HGETALL gave, as a live session; None when there is none or it is dead. Raises `StorageError`."""
    try:
        fields = {name.decode(): value for name, value in raw.items()}
        if BORN not in fields or DEAD in fields:
            return None
        touched_s = int(fields.get(TOUCHED, b"0"))
    except ValueError as error:
        raise StorageError("a session in the store is damaged: it holds fields that this kit never writes") from error
    return StoredSession(session_id, {n: v for n, v in fields.items() if n not in _OURS}, touched_s)


class Session(MutableMapping[str, Any]):
    """What the app keeps for one visitor: str keys, values of JSON's types.

    It is saved when the response starts; a write after that raises `RequestError`. A value comes back as JSON gives it
    (a tuple as a list, a datetime as a str). Changing a value in place is noticed. Keys that begin with ``__`` are
    refused. Writing more than `SESSION_BYTES_MAX` or `SESSION_FIELDS_MAX` raises `TooLargeError`.
    """

    def __init__(self, stored: StoredSession | None, new_id: Callable[[], str]) -> None:
        self.accessed = False
        """Whether this request looked at the session at all, so that its response depends on the cookie."""
        self._stored = stored
        self._id = stored.id if stored else None
        self._new_id = new_id
        self._dead: StoredSession | None = None
        self._closed_because = ""
        try:
            self._values = {n: msgspec.json.decode(v) for n, v in stored.fields.items()} if stored else {}
        except msgspec.DecodeError as error:
            raise StorageError("a session in the store is damaged: a field is not JSON") from error

    @property
    def fingerprint(self) -> str | None:
        """Eight hexadecimal digits that stay the same as long as the session's id; None while there is no session.

        For logs and for people; it gives nothing away that lets one take over the session.
        """
        self.accessed = True
        return session_digest(self._id)[:8] if self._id else None

    def regenerate(self) -> None:
        """Give the session a new id when the response starts; the old one is dead at once. Call it at sign-in.

        What the session holds moves along. A request at the same moment under the old id loses its changes.
        """
        self._check_open()
        if self._stored is not None:
            self._dead, self._stored, self._id = self._stored, None, self._new_id()

    def destroy(self) -> None:
        """End the session, delete what it holds and forget the cookie: logout. Later writes begin a new one."""
        self._check_open()
        self._dead = self._stored or self._dead
        self._stored, self._id, self._values = None, None, {}

    def close(self, because: str) -> None:
        """Refuse writes from now on, with this reason; called by the middleware."""
        self._closed_because = because

    def __getitem__(self, name: str) -> Any:
        self.accessed = True
        return self._values[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self._check_open()
        if not isinstance(name, str) or name.startswith("__"):
            raise RequestError(f"session key {name!r} must be a str that does not begin with two underscores")
        size = len(name.encode()) + len(_encode(name, value))
        if size > SESSION_BYTES_MAX:
            raise TooLargeError(f"session key {name!r} takes {size} bytes; a session may hold {SESSION_BYTES_MAX}")
        if name not in self._values and len(self._values) >= SESSION_FIELDS_MAX:
            raise TooLargeError(f"session key {name!r} is one too many; a session may hold {SESSION_FIELDS_MAX} keys")
        if self._id is None:
            self._id = self._new_id()
        self._values[name] = value

    def __delitem__(self, name: str) -> None:
        self._check_open()
        del self._values[name]

    def __iter__(self) -> Iterator[str]:
        self.accessed = True
        return iter(self._values)

    def __len__(self) -> int:
        self.accessed = True
        return len(self._values)

    def __repr__(self) -> str:
        return f"<Session {self.fingerprint} with {len(self._values)} keys>"

    def plan(self, now_s: int) -> SavePlan:
        """What has to be written now, for the middleware; raises `TooLargeError` or `RequestError` for values that
        were changed in place into something that cannot be kept."""
        before = self._stored.fields if self._stored else {}
        after = self._encoded() if self.accessed else before
        changed = {name: value for name, value in after.items() if before.get(name) != value}
        removed = tuple(name for name in before if name not in after)
        born = self._stored is None and bool(changed)
        due = self._stored is not None and abs(now_s - self._stored.touched_s) >= TOUCH_EVERY_S
        if not (changed or removed or due):
            return SavePlan(dead=self._dead, forget_cookie=self._dead is not None)
        ours = {BORN: b"%d" % now_s} if born else {}
        if born or due:
            ours[TOUCHED] = b"%d" % now_s
        return SavePlan(
            write_id=self._id,
            changed={**changed, **ours},
            removed=removed,
            touch_only=not (changed or removed),
            dead=self._dead,
            cookie_id=self._id if born or due else None,
        )

    def _encoded(self) -> dict[str, bytes]:
        encoded = {name: _encode(name, value) for name, value in self._values.items()}
        size = sum(len(name.encode()) + len(value) for name, value in encoded.items())
        if size > SESSION_BYTES_MAX:
            raise TooLargeError(f"the session takes {size} bytes; it may hold {SESSION_BYTES_MAX}")
        return encoded

    def _check_open(self) -> None:
        self.accessed = True
        if self._closed_because:
            raise RequestError(f"the session can no longer be changed: {self._closed_because}")


def _encode(name: str, value: Any) -> bytes:
    try:
        return msgspec.json.encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise RequestError(f"session key {name!r} holds what JSON cannot: {error}") from error
