"""The text of docs/reference/consul-api.md, made from the table of endpoints."""

from itertools import groupby

from noctule.core.registry.bounds import TTL_MS_MAX, VALUE_BYTES_MAX
from noctule.core.registry.objects import SESSION_TTL_FACTOR
from noctule.servers.consul.call import JITTER
from noctule.servers.consul.requests import WAIT_S, WAIT_S_MAX
from noctule.servers.consul.routes import ABSENT, ENDPOINTS
from noctule.servers.consul.sessions import TTL_MS_MIN
from noctule.servers.consul.system import CONSUL_VERSION
from noctule.servers.consul.waiting import WAITING_MAX

_HEAD = f"""\
# Consul's HTTP API

Every node answers Consul's HTTP API under `/v1`, on its HTTP port, as Consul {CONSUL_VERSION} does: paths, JSON, \
statuses, sentences and headers.
How it is used is told in [the guide](../guides/consul.md), what it stands on in [the \
registry](../concepts/registry.md).
`GET /api/consul-openapi.json` says the same for programs, as OpenAPI 3.1.
This page is written by `scripts/render_reference.py` from the table that the node routes by, and \
`tests/integration/test_consul_api.py` asks a real Consul and Noctule the same.

## What all endpoints share

- Names in JSON bodies are read in any case; durations as `"10s"` or in nanoseconds.
- The consistency of a read: `?stale` is answered by the asked node's own replica at once; everything else is \
linearizable, with or without `?consistent`.
- Without a quorum, what is not stale is answered 500 `No cluster leader`; a stale answer says \
`X-Consul-KnownLeader: false`, and in `X-Consul-LastContact` how many milliseconds old it may be; `?max_stale` \
refuses older ones.
- `X-Consul-Index` is above 0 and never falls while a node lives; after a node has started anew it may tell a \
higher one than needed, which wakes a watcher once too often at worst.
- Blocking queries: `?index` waits for something newer, `?wait` for {WAIT_S / 60:.0f} minutes unless it says \
otherwise and for {WAIT_S_MAX / 60:.0f} at most, with up to a {1 / JITTER:.0f}th more by chance.
- At most {WAITING_MAX:,} blocking queries wait at one node; one more is answered 429. A node that stops answers \
all of them at once.
- `?token`, `X-Consul-Token` and `Authorization: Bearer` are taken and not heeded: there is no access control of \
these endpoints yet.
- `?dc` other than the cluster's own is answered 500 `No path to datacenter`; there is one datacenter, `dc1`.
- `?cached` is accepted; every answer is as fresh as its consistency says.
- Errors that a JSON parser words are worded by this one; a body with something behind its JSON is refused.
- A value is at most {VALUE_BYTES_MAX // 1024} KiB, a session's TTL {TTL_MS_MIN} ms to {TTL_MS_MAX // 3_600_000} \
hours; it ends when it was not renewed for {SESSION_TTL_FACTOR} times its TTL, as at Consul.
- A lock-delay over 60 s is 60 s, as Consul documents it and does not hold it.
- Nodes with one id are not taken for one that was renamed.
- The members are not registered as a service `consul`; they are nodes of the catalog with the check `serfHealth`.

## Endpoints

| endpoint | what it does | differs from Consul |
|---|---|---|
"""

_ABSENT_HEAD = """
## What is not there

These are answered 404.

| endpoint | why, or what there is instead |
|---|---|
"""


def render_consul_reference() -> str:
    """The whole page as Markdown, a newline at the end."""
    rows = []
    for (path, _), same in groupby(ENDPOINTS, lambda each: (each.path, each.handler)):
        first, *others = same
        methods = " ".join([first.method, *(other.method for other in others)])
        rows.append(f"| `{methods} {path}` | {first.summary} | {first.differs} |")
    absent = [f"| `{path}` | {why} |" for path, why in ABSENT]
    return _HEAD + "\n".join(rows) + "\n" + _ABSENT_HEAD + "\n".join(absent) + "\n"
