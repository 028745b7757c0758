"""Consul's key-value store: /v1/kv/<key>. Its keys have nothing to do with the keys of the store."""

from collections.abc import Sequence

from noctule.core.registry.bounds import VALUE_BYTES_MAX
from noctule.core.registry.changes import AcquireKey, Change, DeleteKey, DeleteTree, ReleaseKey, SetKey
from noctule.core.registry.objects import KvEntry
from noctule.core.registry.registry import Registry
from noctule.servers.consul.call import Call
from noctule.servers.consul.errors import TEXT, ConsulError, bad_request, refused
from noctule.servers.consul.renderings import render_key
from noctule.servers.consul.sessions import UUID_CHARACTERS, invalid_session
from noctule.servers.http_route import Answer

_NO_KEY = "Missing key name"


async def get_key(call: Call) -> Answer:
    """One key, or with `recurse` all that begin with it, or with `keys` their names."""
    query = call.query
    if query.has("keys"):
        return await _list_names(call)
    if query.has("recurse"):
        headers = await call.read(f"prefix:{call.value}")
        found: Sequence[KvEntry] = call.state.keys(call.value)
    else:
        headers = await call.read(f"key:{call.require(_NO_KEY)}")
        entry = call.state.key(call.value)
        if entry is not None and query.has("raw"):
            headers = {**headers, "Content-Security-Policy": "sandbox"}
            return Answer(200, entry.value, "text/plain", headers)
        found = [] if entry is None else [entry]
    if not found:
        return Answer(404, b"", TEXT, headers)
    return call.json([render_key(entry) for entry in found], headers=headers)


async def _list_names(call: Call) -> Answer:
    headers = await call.read(f"prefix:{call.value}")
    separator, prefix = call.query.get("separator"), call.value
    names: dict[str, None] = {}
    for entry in call.state.keys(prefix):
        end = entry.key.find(separator, len(prefix)) if separator else -1
        names[entry.key if end < 0 else entry.key[: end + len(separator)]] = None
    if not names:
        return Answer(404, b"", TEXT, headers)
    return call.json(list(names), headers=headers)


async def put_key(call: Call) -> Answer:
    """Write a key; whether it was written, as `cas`, `acquire` and `release` may keep it from that."""
    query, key = call.query, call.require(_NO_KEY)
    refuse_large_body(call.body, "kv_max_value_size")
    _refuse_conflicts(call, "cas", "acquire", "release")
    flags, cas = query.number("flags") or 0, query.number("cas")
    change: Change
    session = query.get("acquire")

    def why(view: Registry) -> str:
        return invalid_session(view, session) if query.has("acquire") else ""

    if query.has("acquire"):
        if len(session) != UUID_CHARACTERS:
            raise refused(why(call.state))
        change = AcquireKey(key, call.body, session, flags)
    elif query.has("release"):
        change = ReleaseKey(key, call.body, query.get("release"), flags)
    else:
        change = SetKey(key, call.body, flags, cas)
    (done,) = await call.change(change, why=why)
    return call.json(done is not False)


async def delete_key(call: Call) -> Answer:
    """Delete a key, or with `recurse` all that begin with it; whether it is gone."""
    query = call.query
    if query.has("recurse"):
        _refuse_conflicts(call, "recurse", "cas")
        await call.change(DeleteTree(call.value))
        return call.json(True)
    key, cas = call.require(_NO_KEY), query.number("cas")
    (done,) = await call.change(DeleteKey(key, cas))
    return call.json(done is not False)


def refuse_large_body(body: bytes, setting: str) -> None:
    """Raise what Consul answers for a body over the limit of a value."""
    if len(body) > VALUE_BYTES_MAX:
        raise ConsulError(
            413,
            f"Request body({len(body)} bytes) too large, max size: {VALUE_BYTES_MAX} bytes. "
            f"See https://www.consul.io/docs/agent/options.html#{setting}.",
        )


def _refuse_conflicts(call: Call, *names: str) -> None:
    if sum(call.query.has(name) for name in names) > 1:
        raise bad_request(f"Conflicting flags: {call.query.conflicts()}")
