"""Sessions: /v1/session/…"""

import uuid

from noctule.core.registry.bounds import LOCK_DELAY_MS_MAX, TTL_MS_MAX
from noctule.core.registry.changes import CreateSession, EndSession, RenewSession
from noctule.core.registry.objects import NODE_CHECK, CheckStatus, Session, SessionBehavior
from noctule.core.registry.registry import Registry
from noctule.servers.consul.bodies import SessionBody
from noctule.servers.consul.call import Call
from noctule.servers.consul.durations import NS_PER_MS, NS_PER_S, parse_duration_ns, render_duration
from noctule.servers.consul.errors import ConsulError, bad_request, refused
from noctule.servers.consul.renderings import render_session
from noctule.servers.consul.requests import load_body
from noctule.servers.http_route import Answer

TTL_MS_MIN = 100
"""Consul's is 10 s; here a session may be as short as its holder's network allows."""
LOCK_DELAY_MS = 15_000
"""Where none is given, as at Consul."""
_LOCK_DELAY_NUMBER_IS_NS_FROM = 1_000
"""A smaller number is seconds, as at Consul."""

UUID_CHARACTERS = 36
_NO_UUID = "failed session lookup: index error: UUID must be 36 characters"
_NO_SESSION = "Missing session"


async def create_session(call: Call) -> Answer:
    """Create a session on a node, by default this one."""
    # Names that it does not know are passed over here, and only here, as at Consul.
    asked = load_body(call.body or b"{}", SessionBody, is_lenient=True)
    call.check_datacenter(asked.datacenter)
    session = Session(
        id=str(uuid.UUID(int=call.chance.getrandbits(128), version=4)),
        node=asked.node or call.agent.name,
        name=asked.name,
        ttl_ms=_load_ttl_ms(asked.ttl),
        lock_delay_ms=_load_lock_delay_ms(asked.lock_delay),
        behavior=_load_behavior(asked.behavior),
        node_checks=_load_node_checks(asked),
        service_checks=tuple(check.id for check in asked.service_checks),
    )
    await call.change(CreateSession(session), why=lambda view: _unhealthy(view, session))
    return call.json({"ID": session.id})


async def destroy_session(call: Call) -> Answer:
    """End a session; not an error when there is none."""
    await call.change(EndSession(_load_id(call)))
    return call.json(True)


async def renew_session(call: Call) -> Answer:
    """Let the TTL of a session begin anew; 404 when it has ended."""
    session_id = _load_id(call)
    (renewed,) = await call.change(RenewSession(session_id))
    session = call.state.sessions.get(session_id)
    if renewed is False or session is None:
        raise ConsulError(404, f"Session id '{session_id}' not found")
    return call.json([render_session(session)])


async def get_session(call: Call) -> Answer:
    """One session, in a list that is empty when there is none."""
    session_id = _load_id(call)
    headers = await call.read(f"session:{session_id}")
    session = call.state.sessions.get(session_id)
    return call.json([] if session is None else [render_session(session)], headers=headers)


async def list_sessions(call: Call) -> Answer:
    """Every session."""
    headers = await call.read("sessions")
    sessions = call.state.sessions
    return call.json([render_session(sessions[each]) for each in sorted(sessions)], headers=headers)


async def list_sessions_of_node(call: Call) -> Answer:
    """The sessions of a node."""
    node = call.require("Missing node name")
    headers = await call.read("sessions")
    return call.json([render_session(each) for each in call.state.sessions_of(node)], headers=headers)


def invalid_session(view: Registry, session_id: str) -> str:
    """What Consul says of an id of which there is no session; empty when there is one."""
    if not session_id:
        return "missing session"
    if len(session_id) != UUID_CHARACTERS:
        return _NO_UUID
    return "" if session_id in view.sessions else f'invalid session "{session_id}"'


def _unhealthy(view: Registry, session: Session) -> str:
    """What Consul says of what a session would rest on; empty when there is nothing to say."""
    if session.node not in view.nodes:
        return "Missing node registration"
    for name in (*session.node_checks, *session.service_checks):
        check = view.checks.get((session.node, name))
        if check is None:
            return f"Missing check '{name}' registration"
        if check.status is CheckStatus.CRITICAL:
            return f"Check '{name}' is in critical state"
    return ""


def _load_id(call: Call) -> str:
    session_id = call.require(_NO_SESSION)
    if len(session_id) != UUID_CHARACTERS:
        raise refused(_NO_UUID)
    return session_id


def _load_ttl_ms(text: str) -> int:
    if not text:
        return 0
    try:
        ttl_ns = parse_duration_ns(text)
    except ValueError:
        raise refused(f"Session TTL '{text}' invalid: time: invalid duration \"{text}\"") from None
    if ttl_ns and not TTL_MS_MIN * NS_PER_MS <= ttl_ns <= TTL_MS_MAX * NS_PER_MS:
        between = f"{render_duration(TTL_MS_MIN * NS_PER_MS)}={render_duration(TTL_MS_MAX * NS_PER_MS)}"
        raise refused(f"Invalid Session TTL '{ttl_ns}', must be between [{between}]")
    return ttl_ns // NS_PER_MS


def _load_lock_delay_ms(value: str | float | None) -> int:
    if value is None:
        return LOCK_DELAY_MS
    if isinstance(value, str):
        try:
            delay_ns = parse_duration_ns(value)
        except ValueError:
            raise bad_request(f'Request decode failed: time: invalid duration "{value}"') from None
    else:
        delay_ns = int(value) * NS_PER_S if value < _LOCK_DELAY_NUMBER_IS_NS_FROM else int(value)
    # One below nothing delays nothing; a part of a millisecond is one.
    return min(max(0, -(-delay_ns // NS_PER_MS)), LOCK_DELAY_MS_MAX)


def _load_behavior(text: str) -> SessionBehavior:
    try:
        return SessionBehavior(text or SessionBehavior.RELEASE)
    except ValueError:
        raise refused(f"Invalid Behavior setting '{text}'") from None


def _load_node_checks(asked: SessionBody) -> tuple[str, ...]:
    """`Checks` is the older name: an empty list is no check at all, others come beside the node's own."""
    if asked.node_checks is not None:
        checks = asked.node_checks
    elif asked.checks is not None and not asked.checks:
        checks = []
    else:
        checks = [NODE_CHECK]
    return tuple(dict.fromkeys([*checks, *(asked.checks or ())]))
