"""Every endpoint of Consul's API that this node knows: the one table behind the router, the OpenAPI document and the
reference page.

Rule of entry: an endpoint of Consul 1.8, with what it does differently; what it does stands in the file of its subject.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias

from msgspec import Struct

from noctule.servers.consul import agent, catalog, health, kv, sessions, system, txn
from noctule.servers.consul.bodies import (
    CheckBody,
    CheckUpdateBody,
    DeregisterBody,
    RegisterBody,
    ServiceBody,
    SessionBody,
    TxnOp,
)
from noctule.servers.consul.call import Call
from noctule.servers.consul.requests import READING
from noctule.servers.http_route import Answer

Handler: TypeAlias = Callable[[Call], Awaitable[Answer]]

CHOOSING = ("near", "node-meta", "filter")
_OF_THIS_NODE = ("/v1/agent/", "/v1/event/", "/v1/acl/")
"""Below these Consul asks no other server, and does not look at `dc`."""
_KEY_WRITES = ("flags", "cas", "acquire", "release")


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One method on a path."""

    method: str
    path: str
    """At its end perhaps a parameter in braces, which may be empty, and hold slashes where it is a key."""
    handler: Handler
    query: tuple[str, ...] = ()
    """Names that it heeds, beside `dc`, `token`, `pretty`, which all do or pass over."""
    body: type[Struct] | type[bytes] | None = None
    is_list: bool = False
    """Whether the body is a list of these."""
    differs: str = ""
    """In what it is not as Consul's; empty where it is."""

    @property
    def heeds_datacenter(self) -> bool:
        """Whether another one than this cluster is asked for in vain."""
        return not self.path.startswith(_OF_THIS_NODE) and self.path != "/v1/catalog/datacenters"

    @property
    def summary(self) -> str:
        """What it does, in a sentence."""
        return " ".join((self.handler.__doc__ or "").partition("\n\n")[0].split())

    @property
    def prefix(self) -> str:
        """The path before its parameter."""
        return self.path.partition("{")[0]

    @property
    def has_value(self) -> bool:
        """Whether there is a parameter."""
        return self.path.endswith("}")


def _get(path: str, handler: Handler, *query: str, differs: str = "") -> Endpoint:
    return Endpoint(method="GET", path=path, handler=handler, query=query, differs=differs)


def _put(
    path: str,
    handler: Handler,
    *query: str,
    body: type[Struct] | type[bytes] | None = None,
    is_list: bool = False,
    differs: str = "",
) -> Endpoint:
    return Endpoint(method="PUT", path=path, handler=handler, query=query, body=body, is_list=is_list, differs=differs)


_NOT_MEASURED = "Always empty: distances in the network are not measured."
_NO_MESH = "Always empty: there is no service mesh."
_FILTER = "`filter` knows ==, !=, in, contains, is empty, and, or, not; `matches` is refused."
_NEAR = "`near` puts what is on that node first; there are no coordinates."

ENDPOINTS: tuple[Endpoint, ...] = (
    _get(
        "/v1/agent/self",
        system.get_self,
        differs="`DebugConfig` and `Stats` hold a part of what Consul's do; `Config.SessionTTLMin` is added.",
    ),
    _get("/v1/agent/members", system.list_members),
    _get("/v1/agent/services", agent.list_services, "filter", differs=_FILTER),
    _get("/v1/agent/service/{id}", agent.get_service, "hash", "wait"),
    _get("/v1/agent/checks", agent.list_checks, "filter", differs=_FILTER),
    _put(
        "/v1/agent/service/register",
        agent.register_service,
        "replace-existing-checks",
        body=ServiceBody,
        differs="Script and Docker checks, `Kind`, `Proxy` and `Connect` are refused; `DependsOn` is added.",
    ),
    _put("/v1/agent/service/deregister/{id}", agent.deregister_service),
    _put("/v1/agent/service/maintenance/{id}", agent.set_service_maintenance, "enable", "reason"),
    _put(
        "/v1/agent/check/register",
        agent.register_check,
        body=CheckBody,
        differs="Script and Docker checks are refused.",
    ),
    _put("/v1/agent/check/deregister/{id}", agent.deregister_check),
    _put("/v1/agent/check/pass/{id}", agent.pass_check, "note"),
    _put("/v1/agent/check/warn/{id}", agent.warn_check, "note"),
    _put("/v1/agent/check/fail/{id}", agent.fail_check, "note"),
    _put("/v1/agent/check/update/{id}", agent.update_check, body=CheckUpdateBody),
    _get("/v1/agent/health/service/id/{id}", agent.get_health_by_id, "format"),
    _get("/v1/agent/health/service/name/{name}", agent.get_health_by_name, "format"),
    _put("/v1/agent/maintenance", agent.set_node_maintenance, "enable", "reason"),
    _put(
        "/v1/catalog/register",
        catalog.register,
        body=RegisterBody,
        differs="A check with `Definition.TTL` turns critical by itself unless it is registered again in time; "
        "of its definition nothing else is kept. An unknown status is refused.",
    ),
    _put("/v1/catalog/deregister", catalog.deregister, body=DeregisterBody),
    _get(
        "/v1/catalog/datacenters",
        catalog.list_datacenters,
        differs="Always this one.",
    ),
    _get("/v1/catalog/nodes", catalog.list_nodes, *READING, *CHOOSING, differs=f"{_NEAR} {_FILTER}"),
    _get("/v1/catalog/services", catalog.list_services, *READING, "node-meta"),
    _get("/v1/catalog/service/{name}", catalog.get_service, *READING, *CHOOSING, "tag", differs=f"{_NEAR} {_FILTER}"),
    _get("/v1/catalog/connect/{name}", catalog.get_connect_service, *READING, differs=_NO_MESH),
    _get("/v1/catalog/node/{name}", catalog.get_node, *READING, "filter", differs=_FILTER),
    _get("/v1/catalog/node-services/{name}", catalog.get_node_services, *READING, "filter", differs=_FILTER),
    _get("/v1/health/node/{name}", health.get_node_health, *READING, "filter", differs=_FILTER),
    _get("/v1/health/checks/{service}", health.get_service_checks, *READING, *CHOOSING, differs=f"{_NEAR} {_FILTER}"),
    _get(
        "/v1/health/service/{service}",
        health.get_service_health,
        *READING,
        *CHOOSING,
        "tag",
        "passing",
        differs=f"{_NEAR} {_FILTER}",
    ),
    _get("/v1/health/connect/{service}", health.get_connect_health, *READING, differs=_NO_MESH),
    _get("/v1/health/state/{state}", health.get_state, *READING, *CHOOSING, differs=_FILTER),
    _get(
        "/v1/kv/{key}",
        kv.get_key,
        *READING,
        "recurse",
        "keys",
        "separator",
        "raw",
        differs="A key is text: bytes that are not UTF-8 are refused.",
    ),
    _put(
        "/v1/kv/{key}",
        kv.put_key,
        *_KEY_WRITES,
        body=bytes,
        differs="A plain write keeps `LockIndex`, which Consul sets to 0; it only ever rises here.",
    ),
    Endpoint(method="DELETE", path="/v1/kv/{key}", handler=kv.delete_key, query=("recurse", "cas")),
    _put(
        "/v1/session/create",
        sessions.create_session,
        body=SessionBody,
        differs="A TTL may be as short as 100 ms.",
    ),
    _put("/v1/session/destroy/{id}", sessions.destroy_session),
    _put("/v1/session/renew/{id}", sessions.renew_session),
    _get(
        "/v1/session/info/{id}",
        sessions.get_session,
        *READING,
        differs="`TTL` is spelled as Go prints a duration; `Checks` are shown among `NodeChecks`. The same for lists.",
    ),
    _get("/v1/session/list", sessions.list_sessions, *READING),
    _get("/v1/session/node/{name}", sessions.list_sessions_of_node, *READING),
    _put(
        "/v1/txn",
        txn.apply_transaction,
        "stale",
        "consistent",
        body=TxnOp,
        is_list=True,
        differs="Of one that writes, the first operation that fails is told. "
        "What it reads of nodes, services and checks, and keys that come into a tree meanwhile, are as of just then.",
    ),
    _get("/v1/status/leader", system.get_leader),
    _get("/v1/status/peers", system.list_peers),
    _get("/v1/operator/raft/configuration", system.get_raft_configuration, differs="All members are shown as voters."),
    _get("/v1/event/list", system.list_events, differs="Always empty: no user events."),
    _put("/v1/event/fire/{name}", system.fire_event, body=bytes, differs="501: there are no user events."),
    _get("/v1/coordinate/datacenters", system.list_coordinate_datacenters, differs=_NOT_MEASURED),
    _get("/v1/coordinate/nodes", system.list_coordinates, *READING, differs=_NOT_MEASURED),
    _get("/v1/coordinate/node/{name}", system.get_coordinate, *READING, differs=_NOT_MEASURED),
    *(
        Endpoint(
            method=method,
            path="/v1/acl/{rest}",
            handler=system.refuse_acl,
            differs="401 `ACL support disabled`, as Consul answers with access control off.",
        )
        for method in ("GET", "PUT", "POST", "DELETE")
    ),
)

ABSENT: tuple[tuple[str, str], ...] = (
    ("/v1/agent/join, leave, force-leave", "Members join with a token and leave by `noctule cluster leave`."),
    ("/v1/agent/reload, token, monitor, metrics, host", "See `/metrics`, the log and `noctule cluster settings`."),
    ("/v1/agent/connect, /v1/connect, /v1/config, /v1/discovery-chain", "There is no service mesh."),
    ("/v1/query", "Prepared queries; ask health with `passing`, `tag` and `near` instead."),
    ("/v1/snapshot", "Nodes keep snapshots of their own."),
    ("/v1/operator but raft/configuration", "See `/api/cluster` and `noctule status`."),
    ("/v1/internal, /ui", "The dashboard is at `/ui/` of Noctule itself."),
    ("/v1/coordinate/update", "Distances in the network are not measured."),
    ("/v1/catalog/gateway-services, /v1/health/ingress", "There is no service mesh."),
)
"""Endpoints that are answered 404, and why or what there is instead."""
