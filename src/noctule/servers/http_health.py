"""Health of a node: alive, ready, and whether what it stands on works."""

import time
from typing import Literal

from msgspec import Struct

from noctule.base.errors import NoctuleError
from noctule.node.api import Node, NodePicture
from noctule.servers.http_route import Answer, Call, json_answer
from noctule.servers.http_store import read

CHECK_S_MAX = 2.0
"""How long the check of the groups waits for one linearizable read."""

_PROBE_KEY = b"noctule:health"
"""Read and never written: that nothing is there is an answer too."""

_Status = Literal["ok", "unavailable"]


class Health(Struct, frozen=True):
    """Whether this node serves, and which one it is; `reason` is empty when it does."""

    status: _Status
    node_id: int
    version: str
    uptime_s: float
    reason: str


class Liveness(Struct, frozen=True):
    """The process runs and its loop turns."""

    status: Literal["ok"]


class Readiness(Struct, frozen=True):
    """Whether this node may take traffic; `reason` is empty when it may."""

    status: _Status
    reason: str


class Check(Struct, frozen=True):
    """One thing that the node stands on; an `ok` one may still have something to say."""

    status: Literal["ok", "failed"]
    reason: str


class BackendChecks(Struct, frozen=True):
    """The disk, the Raft groups, and the other nodes."""

    storage: Check
    groups: Check
    peers: Check


class BackendHealth(Struct, frozen=True, rename={"instance_id": "instanceId"}):
    """What the node stands on; `unavailable` when one check failed. `latency_ms` is what all of them took."""

    status: _Status
    instance_id: str
    checks: BackendChecks
    latency_ms: float


async def get_health(call: Call) -> Answer:
    """Whether this node serves: its disk works, and every group has a leader it can reach."""
    picture = call.node.picture()
    reason = picture.storage_failure or call.node.readiness()
    uptime_s = round(picture.uptime_s, 3)
    health = Health(_status(not reason), picture.node_id, picture.version, uptime_s, reason)
    return json_answer(health, _code(not reason))


async def get_liveness(call: Call) -> Answer:
    """Always ok: that an answer comes at all is what was asked. Touches nothing that could wait."""
    return json_answer(Liveness("ok"))


async def get_readiness(call: Call) -> Answer:
    """Whether a balancer should send traffic here."""
    reason = call.node.readiness()
    return json_answer(Readiness(_status(not reason), reason), _code(not reason))


async def get_backend_health(call: Call) -> Answer:
    """Each thing the node stands on, with one linearizable read through Raft as the proof of the groups."""
    # The loop's own clock stands still within a turn, which is about how long this takes.
    start_s = time.perf_counter()
    picture = call.node.picture()
    checks = BackendChecks(
        storage=_check(picture.storage_failure), groups=await _check_groups(call.node), peers=_check_peers(picture)
    )
    good = all(check.status == "ok" for check in (checks.storage, checks.groups, checks.peers))
    latency_ms = round((time.perf_counter() - start_s) * 1000, 3)
    return json_answer(BackendHealth(_status(good), f"node-{picture.node_id}", checks, latency_ms), _code(good))


async def _check_groups(node: Node) -> Check:
    if reason := node.readiness():
        return _check(reason)
    try:
        await read(node.meta, b"GET", _PROBE_KEY, timeout_s=CHECK_S_MAX)
    except NoctuleError as error:
        return _check(str(error))
    return _check("")


def _check_peers(picture: NodePicture) -> Check:
    """Fails when fewer than a majority of the nodes are alive: one lost node of three is what the cluster is for."""
    silent = [str(node.id) for node in picture.nodes if not node.alive]
    if not silent:
        return _check("")
    alive = len(picture.nodes) - len(silent)
    reason = f"{alive} of {len(picture.nodes)} nodes alive; not heard: {', '.join(silent)}"
    return Check("ok" if alive > len(picture.nodes) // 2 else "failed", reason)


def _check(reason: str) -> Check:
    return Check("failed" if reason else "ok", reason)


def _status(good: bool) -> _Status:
    return "ok" if good else "unavailable"


def _code(good: bool) -> int:
    return 200 if good else 503
