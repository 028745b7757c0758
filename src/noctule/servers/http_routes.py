"""Every route of a node's HTTP API: the one table behind the router, the OpenAPI document and the reference page.

Rule of entry: a route is added here, or, when it is for whoever looks after the cluster, in http_cluster_routes.py,
and when it is about services in http_service_routes.py; what it does stands in the file of its subject.
"""

from dataclasses import dataclass

from noctule.base.errors import (
    InternalError,
    NoctuleError,
    OutcomeUnknownError,
    RequestError,
    StorageError,
    TooLargeError,
    UnavailableError,
)
from noctule.servers import http_cluster, http_health, http_instances, http_kv, http_metrics, http_prometheus
from noctule.servers.consul.openapi import consul_document
from noctule.servers.http_cluster_routes import CLUSTER_ROUTES
from noctule.servers.http_errors import MethodNotAllowedError, NotFoundError
from noctule.servers.http_parameters import (
    CONSISTENCY,
    COUNT,
    CURSOR,
    INSTANCE_ID,
    KEY,
    PREFIX,
    SCRAPED_SERVICE,
    SCRAPED_TAG,
    TTL,
)
from noctule.servers.http_route import Answer, Call, Route, json_answer, shown
from noctule.servers.http_service_routes import SERVICE_ROUTES
from noctule.servers.openapi import openapi_document

_READ: tuple[type[NoctuleError], ...] = (UnavailableError, StorageError, InternalError)
_WRITE: tuple[type[NoctuleError], ...] = (*_READ, OutcomeUnknownError)


async def get_openapi(call: Call) -> Answer:
    """The OpenAPI document of this table, with the version that runs."""
    return json_answer(openapi_document(ROUTES, call.node.picture().version))


async def get_consul_openapi(call: Call) -> Answer:
    """The OpenAPI document of Consul's API, which stands under /v1 with a router of its own."""
    return json_answer(consul_document(call.node.picture().version))


ROUTES: tuple[Route, ...] = (
    Route(
        method="GET",
        path="/api/kv/{key}",
        operation="getKey",
        summary="Read a key",
        description=(
            "With `Accept: application/octet-stream` the answer is the value itself. "
            "A key that holds something other than a string is a bad request."
        ),
        handler=http_kv.get_key,
        parameters=(KEY, CONSISTENCY),
        response=http_kv.KeyValue,
        raw_response=True,
        errors=(RequestError, NotFoundError, TooLargeError, *_READ),
    ),
    Route(
        method="PUT",
        path="/api/kv/{key}",
        operation="putKey",
        summary="Write a key",
        description=(
            "The body is the value, byte for byte. Whatever the key held before is replaced, its ttl too. "
            "The answer comes after a quorum has synced the write."
        ),
        handler=http_kv.put_key,
        parameters=(KEY, TTL),
        response=http_kv.KeyWritten,
        body=bytes,
        errors=(RequestError, TooLargeError, *_WRITE),
    ),
    Route(
        method="DELETE",
        path="/api/kv/{key}",
        operation="deleteKey",
        summary="Delete a key",
        description="A key of any type; `deleted` is false when there was none.",
        handler=http_kv.delete_key,
        parameters=(KEY,),
        response=http_kv.KeyDeleted,
        errors=(RequestError, TooLargeError, *_WRITE),
    ),
    Route(
        method="GET",
        path="/api/kv",
        operation="listKeys",
        summary="List keys",
        description=(
            "Page by page, as SCAN does: begin with cursor 0, go on with the cursor of each answer, end when it is 0. "
            "A key that is there all the while appears at least once. "
            "Bytes of a key that are not UTF-8 are shown as `\\xff`."
        ),
        handler=http_kv.list_keys,
        parameters=(PREFIX, CURSOR, COUNT),
        response=http_kv.KeyPage,
        errors=(RequestError, TooLargeError, *_READ),
    ),
    Route(
        method="GET",
        path="/api/cluster",
        operation="getCluster",
        summary="The cluster as this node sees it",
        description="Answers without a quorum too; `instances` may then be old or empty.",
        handler=http_cluster.get_cluster,
        response=http_cluster.ClusterPicture,
        errors=(RequestError, InternalError),
    ),
    *CLUSTER_ROUTES,
    *SERVICE_ROUTES,
    Route(
        method="GET",
        path="/api/instances",
        operation="listInstances",
        summary="List the app instances",
        handler=http_instances.list_instances,
        response=http_instances.InstanceList,
        errors=(RequestError, TooLargeError, *_READ),
    ),
    Route(
        method="PUT",
        path="/api/instances/{id}",
        operation="putInstance",
        summary="Register or renew an app instance",
        description="It vanishes `ttl_s` seconds after the last time this was called.",
        handler=http_instances.put_instance,
        parameters=(INSTANCE_ID,),
        response=http_instances.Instance,
        body=http_instances.InstanceRenewal,
        errors=(RequestError, TooLargeError, *_WRITE),
    ),
    Route(
        method="DELETE",
        path="/api/instances/{id}",
        operation="deleteInstance",
        summary="Remove an app instance",
        handler=http_instances.delete_instance,
        parameters=(INSTANCE_ID,),
        response=http_instances.InstanceDeleted,
        errors=(RequestError, TooLargeError, *_WRITE),
    ),
    Route(
        method="GET",
        path="/api/prometheus/targets",
        operation="listPrometheusTargets",
        summary="What Prometheus is to scrape",
        description=(
            "For `http_sd_configs`. The nodes that belong to the cluster, and the instances that have the tag and no "
            "critical check. `metrics_path` and `metrics_scheme` in the meta of an instance say where its metrics are."
        ),
        handler=http_prometheus.list_targets,
        parameters=(SCRAPED_SERVICE, SCRAPED_TAG),
        response=list[http_prometheus.TargetGroup],
        errors=(RequestError, TooLargeError, UnavailableError, InternalError),
    ),
    Route(
        method="GET",
        path="/api/openapi.json",
        operation="getOpenapi",
        summary="This API as an OpenAPI 3.1 document",
        handler=get_openapi,
        response=None,
        errors=(RequestError, InternalError),
    ),
    Route(
        method="GET",
        path="/api/consul-openapi.json",
        operation="getConsulOpenapi",
        summary="Consul's API under /v1 as an OpenAPI 3.1 document",
        handler=get_consul_openapi,
        response=None,
        errors=(RequestError, InternalError),
    ),
    Route(
        method="GET",
        path="/health",
        operation="getHealth",
        summary="Whether this node serves",
        description="503 when the disk has failed, or a group has no leader that this node can reach.",
        handler=http_health.get_health,
        response=http_health.Health,
        unavailable_response=True,
        errors=(InternalError,),
        ignores_query=True,
    ),
    Route(
        method="GET",
        path="/health/live",
        operation="getLiveness",
        summary="Whether the process runs",
        description="For whoever restarts it: always 200 while the event loop turns.",
        handler=http_health.get_liveness,
        response=http_health.Liveness,
        ignores_query=True,
    ),
    Route(
        method="GET",
        path="/health/ready",
        operation="getReadiness",
        summary="Whether this node may take traffic",
        description="For whoever balances: 503 while starting, draining, or cut off from a leader.",
        handler=http_health.get_readiness,
        response=http_health.Readiness,
        unavailable_response=True,
        errors=(InternalError,),
        ignores_query=True,
    ),
    Route(
        method="GET",
        path="/health/backend",
        operation="getBackendHealth",
        summary="Whether what this node stands on works",
        description=(
            "Checks the disk, the groups (with one linearizable read, at most 2 s) and the peers. "
            "The peers check fails when fewer than a majority of the nodes are alive."
        ),
        handler=http_health.get_backend_health,
        response=http_health.BackendHealth,
        unavailable_response=True,
        errors=(InternalError,),
        ignores_query=True,
    ),
    Route(
        method="GET",
        path="/metrics",
        operation="getMetrics",
        summary="Metrics as Prometheus text",
        description="Text format 0.0.4; the families are listed in the reference of metrics.",
        handler=http_metrics.get_metrics,
        response=None,
        content_type=http_metrics.CONTENT_TYPE,
        errors=(InternalError,),
        ignores_query=True,
    ),
)


@dataclass(frozen=True, slots=True)
class Match:
    """The route that a request goes to, and what stood in the place of its path parameter, still encoded."""

    route: Route
    path_value: str


def match_route(method: str, path: str) -> Match:
    """Find the route of a request; HEAD goes where GET does (RFC 9110 9.3.2).

    `path` is as it came, percent-encoding and all: decoding first would turn an encoded slash into a part of the
    path. Raises `NotFoundError` or `MethodNotAllowedError`.
    """
    asked = "GET" if method == "HEAD" else method
    candidates = [
        Match(route, path_value) for route in ROUTES if (path_value := _path_value(route.path, path)) is not None
    ]
    # What names a part behind the parameter means that, and not a parameter with a slash in it.
    candidates = [match for match in candidates if not match.route.path.endswith("}")] or candidates
    for match in candidates:
        if match.route.method == asked:
            return match
    if not candidates:
        raise NotFoundError(f"there is nothing at {shown(path)}; GET /api/openapi.json lists what there is")
    allowed = {match.route.method for match in candidates}
    if "GET" in allowed:
        allowed.add("HEAD")
    names = tuple(sorted(allowed))
    raise MethodNotAllowedError(f"{candidates[0].route.path} takes {', '.join(names)}, not {shown(method)}", names)


def _path_value(template: str, path: str) -> str | None:
    start, brace, rest = template.partition("{")
    if not brace:
        return "" if path == template else None
    end = rest.partition("}")[2]
    if not path.startswith(start) or not path.endswith(end) or len(path) < len(start) + len(end):
        return None
    value = path[len(start) : len(path) - len(end)]
    return None if end and "/" in value else value
