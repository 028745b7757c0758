"""A web session as the app sees it, and what has to be written for what the app did; pure.

Only changed fields are written, so two requests at once that change different keys both survive. `session_script.py`
tells what is stored and how a save decides, `session_store.py` carries the plans out.
"""

import hashlib
import hmac
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import msgspec

from noctule.base.errors import RequestError, StorageError, TooLargeError, UnavailableError
from noctule.kits.pre_session import PreSession
from noctule.kits.session_cookie import session_digest, session_handle
from noctule.kits.session_script import BORN, DEAD, EPOCH, ID, OURS, TOUCHED, USER

SESSION_BYTES_MAX = 64 * 1024
"""Names and encoded values of one session together; it is read whole for each request."""

SESSION_FIELDS_MAX = 128
"""Keys of one session."""

TOUCH_EVERY_S = 60
"""The life of a session is renewed this often at most."""

USER_BYTES_MAX = 256
"""The name of a user."""

Kind = Literal["set", "drop", "checked", "checked-drop", "own"]


class SessionConflictError(RequestError):
    """The session was changed or ended by another request meanwhile, and this one insisted that it was not."""

    code = "conflict"
    retryable = True


class SessionAwayError(UnavailableError):
    """The store is away and the request is served as anonymous: it has no session that could be changed."""


class NewId(Protocol):
    """Makes ids: of a new session, or another one of the session that has this id."""

    def __call__(self, of: str | None = None) -> str:
        """One more id."""
        ...


class Unseal(Protocol):
    """Gives what was sealed for a place, or what is not sealed as it is; raises `StorageError`."""

    def __call__(self, value: bytes, place: str) -> bytes:
        """What was sealed."""
        ...


@dataclass(frozen=True, slots=True)
class StoredSession:
    """A live session as it was loaded."""

    id: str
    fields: Mapping[str, bytes]
    """The app's keys with their JSON."""
    touched_ms: int
    """By the store's clock."""
    marks: Mapping[str, str] = field(default_factory=dict)
    """SHA-1 of what the store holds for each field; to notice that another request has changed it, and no secret."""
    user: str | None = None
    epoch: int = 0
    """The user's, when the session signed in."""


@dataclass(frozen=True, slots=True)
class FieldChange:
    """One field of the app's to be written."""

    name: str
    value: bytes | None
    """None: it is removed."""
    mark: str
    """Of what the app saw; empty when the field was not there."""
    is_checked: bool
    """Only if the store still holds what the app saw."""

    @property
    def kind(self) -> Kind:
        """What the script calls it."""
        if self.value is None:
            return "checked-drop" if self.is_checked else "drop"
        return "checked" if self.is_checked else "set"


@dataclass(frozen=True, slots=True)
class SavePlan:
    """What a request leaves to be done; empty when it changed nothing."""

    id: str | None = None
    """The session to write to, by the id that opens it."""
    is_new: bool = False
    new_id: str | None = None
    """The id that opens it from then on."""
    changes: tuple[FieldChange, ...] = ()
    sign_in: str | None = None
    """The user to sign in with this save."""
    signed_in: str | None = None
    """Who is signed in already."""
    is_touch: bool = False
    """There is nothing to write but that the session is in use: losing it loses a minute of life."""
    ended: tuple[tuple[str, str | None], ...] = ()
    """Ids of sessions to end, each with its user."""

    @property
    def cookie_id(self) -> str | None:
        """The id that the browser has to know."""
        return self.new_id or self.id


def read_stored(session_id: str, raw: Mapping[bytes, bytes], unseal: Unseal | None = None) -> StoredSession | None:
    """What HGETALL gave, as a live session; None when there is none that this id opens. Raises `StorageError`."""
    digest = raw.get(ID.encode(), b"")
    if BORN.encode() not in raw or DEAD.encode() in raw:
        return None
    if not hmac.compare_digest(digest, session_digest(session_id).encode()):
        return None
    handle = session_handle(session_id)

    def opened(name: str, value: bytes) -> bytes:
        return value if unseal is None else unseal(value, f"{handle}/{name}")

    try:
        stored = {name.decode(): value for name, value in raw.items()}
        fields = {name: value for name, value in stored.items() if name not in OURS}
        user = msgspec.json.decode(opened(USER, stored[USER]), type=str) if USER in stored else None
        return StoredSession(
            session_id,
            {name: opened(name, value) for name, value in fields.items()},
            int(stored.get(TOUCHED, b"0")),
            {name: _mark(value) for name, value in fields.items()},
            user,
            int(stored.get(EPOCH, b"0")),
        )
    except (ValueError, msgspec.DecodeError) as error:
        raise StorageError("a session in the store is damaged: it holds fields that this kit never writes") from error


class Session(MutableMapping[str, Any]):
    """What the app keeps for one visitor: str keys, values of JSON's types.

    It is saved when the response starts; a write after that raises `RequestError`. A value comes back as JSON gives it
    (a tuple as a list, a datetime as a str). Changing a value in place is noticed. Keys that begin with ``__`` are
    refused. Writing more than `SESSION_BYTES_MAX` or `SESSION_FIELDS_MAX` raises `TooLargeError`.
    """

    def __init__(
        self,
        stored: StoredSession | None,
        new_id: NewId,
        *,
        is_degraded: bool = False,
        pre_session: PreSession | None = None,
    ) -> None:
        self.accessed = False
        """Whether this request looked at the session at all, so that its response depends on the cookie."""
        self.is_degraded = is_degraded
        """The store is away, so this is nobody's session: it is empty, and a write raises `SessionAwayError`."""
        self._stored = stored
        self._id = stored.id if stored else None
        self._user = stored.user if stored else None
        self._pre_session = pre_session or PreSession()
        self._new_id = new_id
        self._signs_in = False
        self._ended: list[tuple[str, str | None]] = []
        self._functions: dict[str, list[Callable[[Any], Any]]] = {}
        self._defaults: dict[str, Any] = {}
        self._closed_because = ""
        self._values = _decoded(stored.fields) if stored else {}

    @property
    def fingerprint(self) -> str | None:
        """Eight hexadecimal digits that stay the same as long as the session's id; None while there is no session.

        For logs and for people; it gives nothing away that lets one take over the session.
        """
        self.accessed = True
        return session_digest(self._id)[:8] if self._id else None

    @property
    def handle(self) -> str | None:
        """What lists of devices call this session, all its life; None while there is none. It signs nobody in."""
        self.accessed = True
        return session_handle(self._id) if self._id else None

    @property
    def user(self) -> str | None:
        """Who is signed in, as `sign_in` was told."""
        self.accessed = True
        return self._user

    def sign_in(self, user: str) -> None:
        """Make this the session of a user, under a new id, when the response starts; listed among the user's devices.

        `user` names the account for ever, in up to `USER_BYTES_MAX` bytes: no name that may be given to another.
        """
        if not user or len(user.encode(errors="surrogatepass")) > USER_BYTES_MAX:
            raise RequestError(f"a user is named by 1 to {USER_BYTES_MAX} bytes")
        if self._user not in (None, user):
            self.destroy()  # What one user kept is not the other's.
        self.regenerate()
        self._begin()
        self._user, self._signs_in = user, True

    def regenerate(self) -> None:
        """Give the session a new id when the response starts; the old one is dead in the same instant.

        What the session holds stays. A request at the same moment under the old id loses its changes; if it, too, asks
        for a new id, it is answered 409. `sign_in` does this by itself.
        """
        self._check_open()
        self._pre_session.end()
        if self._id is not None:
            self._id = self._new_id(self._id)

    def destroy(self) -> None:
        """End the session, delete what it holds and forget the cookie: logout. Later writes begin a new one.

        No request that is under way can revive it, whatever id of it that one came with.
        """
        self._check_open()
        self._pre_session.end()
        if self._stored is not None:
            self._ended.append((self._stored.id, self._stored.user))
        self._stored, self._id, self._user, self._signs_in, self._values = None, None, None, False, {}
        self._functions.clear()

    def change(self, name: str, function: Callable[[Any], Any], default: Any = None) -> Any:
        """Set a key to what `function` makes of its value (or of `default`), and lose no change that others make.

        When another request has changed the key meanwhile, the function is called again with that value before this
        request's response starts; so it must do nothing else. Gives what the value is as far as is known now.
        """
        functions = self._functions.get(name, [])
        # Once it was set to a value, what others make of it is overwritten anyway.
        is_set = not functions and self._is_changed(name)
        value = function(self._values.get(name, default))
        self[name] = value
        if not is_set:
            self._functions[name] = [*functions, function]
            self._defaults.setdefault(name, default)
        return value

    def add(self, name: str, amount: float = 1) -> Any:
        """Count: as `change`, from 0."""
        return self.change(name, lambda value: value + amount, 0)

    def seal(self, message: bytes) -> bytes:
        """32 bytes that only this session can make of a message, and that change with its id; while there is none, only
        this browser, by a cookie of its own. What the tokens of `csrf.py` are made of."""
        self.accessed = True
        if self._id is not None:
            return _seal(self._id, message)
        if self._pre_session.key is None:
            self._check_open()
        return _seal(self._pre_session.begin(), message)

    def is_sealed(self, message: bytes, seal: bytes) -> bool:
        """Whether `seal` made that of the message, for this session, or for this browser before the session began."""
        self.accessed = True
        keys = [key for key in (self._id, self._pre_session.key) if key is not None]
        return any(hmac.compare_digest(_seal(key, message), seal) for key in keys)

    def form_cookie(self) -> str | None:
        """What the browser's cookie for forms has to become, for the middleware; empty: forgotten, None: as it is."""
        return self._pre_session.change(self._id)

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
        self._begin()
        self._functions.pop(name, None)
        self._values[name] = value

    def __delitem__(self, name: str) -> None:
        self._check_open()
        del self._values[name]
        self._functions.pop(name, None)

    def __iter__(self) -> Iterator[str]:
        self.accessed = True
        return iter(self._values)

    def __len__(self) -> int:
        self.accessed = True
        return len(self._values)

    def __repr__(self) -> str:
        return f"<Session {self.fingerprint} with {len(self._values)} keys>"

    def plan(self, now_ms: int, *, is_checked: bool = False) -> SavePlan:
        """What has to be written now, for the middleware; `is_checked`: every field only if nobody else has changed it.

        Raises `TooLargeError` or `RequestError` for values that were changed in place into what cannot be kept.
        """
        before = self._stored.fields if self._stored else {}
        marks = self._stored.marks if self._stored else {}
        after = self._encoded() if self.accessed else before
        names = [name for name, value in after.items() if before.get(name) != value]
        names += [name for name in before if name not in after]
        changes = tuple(
            FieldChange(name, after.get(name), marks.get(name, ""), is_checked or name in self._functions)
            for name in names
        )
        ended = tuple(self._ended)
        if self._id is None:
            return SavePlan(ended=ended)
        sign_in = self._user if self._signs_in else None
        if self._stored is None:
            return SavePlan(self._id, is_new=True, changes=changes, sign_in=sign_in, ended=ended)
        new_id = self._id if self._id != self._stored.id else None
        is_idle = not (changes or new_id or sign_in)
        # The instance's clock only guesses that it is time: the script looks at the store's.
        if is_idle and abs(now_ms - self._stored.touched_ms) < TOUCH_EVERY_S * 1000:
            return SavePlan(ended=ended)
        return SavePlan(
            self._stored.id,
            new_id=new_id,
            changes=changes,
            sign_in=sign_in,
            signed_in=self._stored.user,
            is_touch=is_idle,
            ended=ended,
        )

    def rebase(self, stored: StoredSession, clashes: set[str]) -> None:
        """Do the functions of `change` again over what is stored now, for the middleware.

        Raises `SessionConflictError` when a field clashes that was not changed by functions alone.
        """
        if not clashes <= set(self._functions):
            raise SessionConflictError("the session was changed by another request meanwhile; try again")
        values = _decoded(stored.fields)
        before = _decoded(self._stored.fields) if self._stored else {}
        for name in clashes:
            value = values.get(name, self._defaults[name])
            for function in self._functions[name]:
                value = function(value)
            self._values[name] = value
        # Whatever else has changed meanwhile is not this request's, which has seen the old value and left it alone.
        for name in (set(values) | set(before)) - set(self._functions):
            if not self._is_changed(name):
                self._values.pop(name, None)
                if name in values:
                    self._values[name] = values[name]
        self._stored = stored

    def _is_changed(self, name: str) -> bool:
        before = self._stored.fields.get(name) if self._stored else None
        after = _encode(name, self._values[name]) if name in self._values else None
        return before != after

    def _begin(self) -> None:
        if self._id is None:
            self._id = self._new_id()

    def _encoded(self) -> dict[str, bytes]:
        encoded = {name: _encode(name, value) for name, value in self._values.items()}
        size = sum(len(name.encode()) + len(value) for name, value in encoded.items())
        if size > SESSION_BYTES_MAX:
            raise TooLargeError(f"the session takes {size} bytes; it may hold {SESSION_BYTES_MAX}")
        return encoded

    def _check_open(self) -> None:
        self.accessed = True
        if self.is_degraded:
            raise SessionAwayError("the session store is away; try again")
        if self._closed_because:
            raise RequestError(f"the session can no longer be changed: {self._closed_because}")


def _seal(key: str, message: bytes) -> bytes:
    return hmac.digest(key.encode(), b"noctule session seal\0" + message, "sha256")


def _mark(value: bytes) -> str:
    return hashlib.sha1(value, usedforsecurity=False).hexdigest()


def _decoded(fields: Mapping[str, bytes]) -> dict[str, Any]:
    try:
        return {name: msgspec.json.decode(value) for name, value in fields.items()}
    except msgspec.DecodeError as error:
        raise StorageError("a session in the store is damaged: a field is not JSON") from error


def _encode(name: str, value: Any) -> bytes:
    try:
        return msgspec.json.encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        # Not in the error's words: they may quote the value.
        raise RequestError(f"session key {name!r} holds what JSON cannot: {type(error).__name__}") from error
