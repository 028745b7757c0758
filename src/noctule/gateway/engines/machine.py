"""What this machine allows an engine, whatever the model says."""

import logging
import resource

from msgspec import structs

from noctule.gateway.model import GatewayModel

FILES_SPARE = 512
"""Open files beside two for each connection: listeners, checks, logs, idle connections to instances."""

log = logging.getLogger("noctule.gateway")


def fitted(model: GatewayModel) -> GatewayModel:
    """The model with as many connections as files may be open here: HAProxy would not start, nginx would fail later."""
    _, files_max = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = model.limits.connections_max
    allowed = max(1, (files_max - FILES_SPARE) // 2)
    if files_max == resource.RLIM_INFINITY or wanted <= allowed:
        return model
    log.warning("connections_reduced", extra={"wanted": wanted, "allowed": allowed})
    return structs.replace(model, limits=structs.replace(model.limits, connections_max=allowed))
