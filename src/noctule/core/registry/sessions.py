"""Sessions, and what they rest on: a node, and checks of it."""

from msgspec import structs

from noctule.core.registry.bounds import SESSIONS_MAX, require, require_fits, require_session
from noctule.core.registry.changes import ExpireSession, RenewSession
from noctule.core.registry.kv import KeyValues
from noctule.core.registry.moment import Moment, stamped
from noctule.core.registry.objects import SESSION_TTL_FACTOR, Session
from noctule.core.registry.tables import Deadlines, Table
from noctule.core.registry.topics import Topics


class Sessions(Table[str, Session]):
    """By id."""

    def __init__(self, kv: KeyValues, topics: Topics) -> None:
        super().__init__(Session)
        self.deadlines: Deadlines[str] = Deadlines()
        self.resting_on: dict[tuple[str, str], set[str]] = {}
        """By (node, id of a check), and by (node, "") for the node itself."""
        self._kv = kv
        self._topics = topics

    def create(self, session: Session, at: Moment) -> None:
        """See `CreateSession`; what it rests on was checked before."""
        require_session(session)
        require(session.id not in self.rows, f"there is a session {session.id!r} already")
        require_fits(len(self.rows) + 1, SESSIONS_MAX, "number of sessions")
        session = stamped(structs.replace(session, expires_ms=_expiry(session, at)), None, at)
        self.put(session.id, session)
        self._touch(session)

    def renew(self, change: RenewSession, at: Moment) -> bool:
        """See `RenewSession`."""
        session = self.get(change.id)
        if session is None:
            return False
        expires_ms = _expiry(session, at)
        if expires_ms != session.expires_ms:
            self.put(session.id, structs.replace(session, expires_ms=expires_ms))
        return True

    def expire(self, change: ExpireSession, at: Moment) -> None:
        """See `ExpireSession`."""
        session = self.get(change.id)
        if session is not None and session.expires_ms and session.expires_ms == change.expires_ms <= at.now_ms:
            self.end(session.id, at)

    def end(self, session_id: str, at: Moment) -> None:
        """End a session, if it is there, with what its keys lose by that."""
        session = self.get(session_id)
        if session is not None:
            self.remove(session_id)
            self._touch(session)
            self._kv.lose(session, at)

    def end_resting_on(self, node: str, check: str, at: Moment) -> None:
        """The check is critical or gone, or the node is when `check` is empty: end what rests on it."""
        for session_id in sorted(self.resting_on.get((node, check), ())):
            self.end(session_id, at)

    def _touch(self, session: Session) -> None:
        self._topics.touch("sessions")
        self._topics.touch(f"session:{session.id}")

    def _placed(self, key: str, before: Session | None, after: Session | None) -> None:
        self.deadlines.set(key, 0 if after is None else after.expires_ms)
        rests_before, rests_after = _rests(before), _rests(after)
        for rest in rests_after - rests_before:
            self.resting_on.setdefault(rest, set()).add(key)
        for rest in rests_before - rests_after:
            self.resting_on[rest].discard(key)
            if not self.resting_on[rest]:
                del self.resting_on[rest]


def _rests(session: Session | None) -> set[tuple[str, str]]:
    if session is None:
        return set()
    return {(session.node, check) for check in ("", *session.node_checks, *session.service_checks)}


def _expiry(session: Session, at: Moment) -> int:
    return at.now_ms + SESSION_TTL_FACTOR * session.ttl_ms if session.ttl_ms else 0
