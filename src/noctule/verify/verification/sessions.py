"""Whether a web session is created, is the same on every instance, and really is in the store."""

import secrets
from collections import Counter
from typing import Any, cast
from urllib.parse import urljoin

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError

from noctule.base.errors import NoctuleError, ProtocolError, RequestError, UnavailableError
from noctule.kits.session_cookie import session_digest, session_handle, session_key
from noctule.kits.session_users import PREFIX
from noctule.kits.store import connect, retrying_idempotent
from noctule.verify.verification.distribution import shortened
from noctule.verify.verification.report import Finding
from noctule.verify.verification.subject import SignedIn, Subject
from noctule.verify.verification.visitor import Reply

ANSWERS_EACH_MIN = 2
"""Of each instance before the session counts as consistent: what one keeps to itself shows at its second answer."""


class WhoAmI(msgspec.Struct, frozen=True):
    """What the page of the session says."""

    name: str | None
    visits: int
    session: str | None


async def check_created(subject: Subject) -> Finding:
    """Signing in gives a redirect and a cookie, and with the cookie the app knows the visitor by name."""
    name = f"verify-{secrets.token_hex(4)}"
    page = subject.url + subject.options.session_path
    signing_in = await subject.visitor.post(subject.url + subject.options.sign_in_path, {"name": name})
    lines = [str(signing_in)]
    location = signing_in.headers.get("Location", "")
    if signing_in.status not in (302, 303) or not location:
        return Finding([f"{signing_in} instead of 303 with a Location"], lines)
    if not subject.visitor.cookies(page):
        return Finding([f"{signing_in}, and no cookie that a request to {page} would carry"], lines)
    landing = await subject.visitor.get(urljoin(signing_in.url, location))
    lines.append(str(landing))
    if landing.status >= 400:
        return Finding([f"after signing in, {landing}"], lines)
    reply = await subject.visitor.get(page)
    lines.append(str(reply))
    seen = who_am_i(reply)
    if seen.name != name or not seen.session:
        return Finding(
            [f"{reply}: name {seen.name!r}, session {seen.session!r} instead of {name!r} and a session"], lines
        )
    subject.signed_in = SignedIn(name, seen.session, seen.visits)
    return Finding([], [*lines, f"session {seen.session} of {name}"])


async def check_consistent(subject: Subject) -> Finding:
    """Through the balancer every instance knows the session, and its count of visits only rises."""
    subject.need_session()
    ids = {instance.id for instance in subject.need_instances()}
    answers: Counter[str] = Counter()
    problems: list[str] = []
    for number in range(1, subject.options.requests + 1):
        try:
            problem, instance = await visit(subject)
        except NoctuleError as error:
            problem, instance = str(error), ""
        answers[instance] += 1
        if problem:
            problems.append(f"request {number}: {problem}")
        if all(answers[known] >= ANSWERS_EACH_MIN for known in ids):
            break
    missing = sorted(known for known in ids if not answers[known])
    if missing:
        problems.append(
            f"after {answers.total()} requests with the session's cookie, none went to {', '.join(missing)}"
        )
    lines = [f"{known} answered {answers[known]} times with the session's cookie" for known in sorted(ids)]
    return Finding(shortened(problems), lines, {"requests_count": answers.total()})


async def visit(subject: Subject) -> tuple[str, str]:
    """Ask for the session's page once; what was wrong (empty when nothing) and who answered.

    The counts of all calls together must rise strictly. Raises when there is no answer.
    """
    before = subject.need_session()
    reply = await subject.visitor.get(subject.url + subject.options.session_path)
    if reply.status != 200:
        return str(reply), reply.instance
    try:
        seen = who_am_i(reply)
    except ProtocolError as error:
        return str(error), reply.instance
    problem = problem_of_visit(before, seen)
    if not problem:
        subject.signed_in = SignedIn(before.name, before.session, seen.visits)
    return (f"{reply.instance or 'somebody'}: {problem}" if problem else ""), reply.instance


def problem_of_visit(before: SignedIn, seen: WhoAmI) -> str:
    """How an answer contradicts what is known of the session; empty when it agrees."""
    if seen.name != before.name:
        return f"the session of {before.name!r} is that of {seen.name!r}"
    if seen.session != before.session:
        return f"the session is {seen.session!r} instead of {before.session!r}"
    if seen.visits <= before.visits:
        return f"the count of visits went from {before.visits} to {seen.visits}"
    return ""


def who_am_i(reply: Reply) -> WhoAmI:
    """The page of the session; raises `ProtocolError` when it is none."""
    if reply.status != 200:
        raise ProtocolError(f"{reply} instead of 200")
    try:
        return msgspec.json.decode(reply.body, type=WhoAmI)
    except msgspec.DecodeError as error:
        raise ProtocolError(f"GET {reply.url}: not the page of a session: {error}") from error


async def check_stored(subject: Subject) -> Finding:
    """The session is a hash in the store under the digest of its cookie's first part, and a visit changes it there."""
    session = subject.need_session().session
    page = subject.url + subject.options.session_path
    cookies = subject.visitor.cookies(page).values()
    session_id = next((value for value in cookies if session_digest(value).startswith(session)), "")
    if not session_id:
        return Finding([f"no cookie has a SHA-256 that begins with {session}, which the app says of its session"])
    key = session_key(PREFIX, session_handle(session_id))
    store = connect(subject.options.store or await _store_url(subject), answer_timeout_s=subject.options.timeout_s)
    try:
        kind = cast("bytes", await _read(subject, store, "TYPE", key)).decode()
        if kind != "hash":
            held = "nothing" if kind == "none" else f"a {kind}"
            return Finding([f"the store holds {held} instead of a hash under {key}"])
        before = await _read(subject, store, "HGETALL", key)
        problem, _ = await visit(subject)
        after = await _read(subject, store, "HGETALL", key)
        remaining_s = await _read(subject, store, "TTL", key)
    finally:
        await store.aclose()
    problems = [problem] if problem else []
    if before == after:
        problems.append(f"a visit left {key} in the store as it was, so the session is kept elsewhere")
    lines = [f"{key} is a hash of {len(after)} fields and expires in {remaining_s} s"]
    return Finding(problems, lines, {"fields_count": len(after), "ttl_s": remaining_s})


async def _read(subject: Subject, store: Redis, *command: str) -> Any:
    try:
        return await retrying_idempotent(
            lambda: cast("Any", store).execute_command(*command), writes=False, budget_s=subject.options.timeout_s
        )
    except (RequestError, UnavailableError) as error:
        words = str(error.__cause__) if isinstance(error.__cause__, RedisError) else str(error)
        raise UnavailableError(f"store: {command[0]} failed: {words}") from error


async def _store_url(subject: Subject) -> str:
    cluster = await subject.node.cluster()
    addresses = [node.resp for node in cluster.nodes if node.alive and node.resp]
    if not addresses:
        raise UnavailableError(f"{subject.options.node} names no store; give its URL with --store")
    return f"redis://{','.join(addresses)}/0"
