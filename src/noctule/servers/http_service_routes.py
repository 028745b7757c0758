"""The routes of services; a part of the table in http_routes.py."""

from noctule.base.errors import (
    InternalError,
    NoctuleError,
    OutcomeUnknownError,
    RequestError,
    StorageError,
    TooLargeError,
    UnavailableError,
)
from noctule.core.registry.dependencies import DependencyGraph
from noctule.core.registry.views import ServiceList, ServiceRegistration, ServiceView
from noctule.servers import http_services
from noctule.servers.http_errors import NotFoundError
from noctule.servers.http_events import CONTENT_TYPE
from noctule.servers.http_parameters import (
    CONSISTENCY,
    INDEX,
    INSTANCE_NODE,
    INSTANCE_TAG,
    ONLY_PASSING,
    SERVICE_ID,
    SERVICE_NAME,
    WAIT,
    WATCHED_SERVICE,
)
from noctule.servers.http_route import Route

_READ: tuple[type[NoctuleError], ...] = (RequestError, UnavailableError, InternalError)
_WRITE: tuple[type[NoctuleError], ...] = (*_READ, TooLargeError, StorageError, OutcomeUnknownError)

SERVICE_ROUTES: tuple[Route, ...] = (
    Route(
        method="GET",
        path="/api/services",
        operation="listServices",
        summary="List the instances of services, with their health",
        description=(
            "With `index`, the one of an answer before, it answers once something has changed. "
            "Without a quorum only `consistency=eventual` answers, and `staleness_ms` says how old that may be."
        ),
        handler=http_services.list_services,
        parameters=(SERVICE_NAME, INSTANCE_TAG, ONLY_PASSING, INDEX, WAIT, CONSISTENCY),
        response=ServiceList,
        errors=(*_READ, TooLargeError),
    ),
    Route(
        method="GET",
        path="/api/services/{id}",
        operation="getService",
        summary="One instance of a service",
        handler=http_services.get_service,
        parameters=(SERVICE_ID, INSTANCE_NODE, CONSISTENCY),
        response=ServiceView,
        errors=(*_READ, NotFoundError),
    ),
    Route(
        method="PUT",
        path="/api/services/{id}",
        operation="putService",
        summary="Register or renew an instance of a service",
        description=(
            "With `ttl_s` it renews itself, by any node: it is critical when it was not renewed for so long. "
            "Without, the node that is asked keeps it, also over a restart, and makes its `checks`. "
            "A check names one of `ttl_s`, `http`, `tcp`, `grpc`, or of an alias `alias_node` and `alias_service`; "
            "durations are in seconds. Checks that run a command are refused."
        ),
        handler=http_services.put_service,
        parameters=(SERVICE_ID,),
        response=ServiceView,
        body=ServiceRegistration,
        errors=_WRITE,
    ),
    Route(
        method="DELETE",
        path="/api/services/{id}",
        operation="deleteService",
        summary="Remove an instance of a service",
        description="One that a node keeps is removed by that node only. Of several with this id, name the node.",
        handler=http_services.delete_service,
        parameters=(SERVICE_ID, INSTANCE_NODE),
        response=http_services.ServiceDeleted,
        errors=(*_READ, StorageError, OutcomeUnknownError),
    ),
    Route(
        method="GET",
        path="/api/services/{name}/watch",
        operation="watchService",
        summary="Follow the instances of a service, as server-sent events",
        description=(
            "An event `services` at once and after each change, whose data is what `GET /api/services` answers. "
            "A comment comes every 5 s when nothing else does."
        ),
        handler=http_services.watch_service,
        parameters=(WATCHED_SERVICE,),
        response=None,
        content_type=CONTENT_TYPE,
        errors=_READ,
    ),
    Route(
        method="GET",
        path="/api/dependencies",
        operation="getDependencies",
        summary="Which service calls which, and how they are",
        description="By what instances say in `depends_on`; services that are missing, and cycles, are named.",
        handler=http_services.get_dependencies,
        parameters=(CONSISTENCY,),
        response=DependencyGraph,
        errors=_READ,
    ),
)
