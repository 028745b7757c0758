"""Files of an engine for whoever runs it without a driver, as in a container."""

from collections.abc import Callable, Mapping

from noctule.base.errors import RequestError
from noctule.gateway.engines.certificates import with_hosts
from noctule.gateway.engines.engine import EnginePaths, Files, Instances
from noctule.gateway.engines.haproxy import render_haproxy
from noctule.gateway.engines.nginx import render_nginx
from noctule.gateway.model import GatewayModel

Renderer = Callable[[GatewayModel, Instances, EnginePaths], Files]

RENDERERS: Mapping[str, Renderer] = {"haproxy": render_haproxy, "nginx": render_nginx}

IN_DOCKER: Mapping[str, EnginePaths] = {
    "haproxy": EnginePaths(
        folder="/usr/local/etc/haproxy",
        pid="/tmp/haproxy.pid",
        socket="/tmp/haproxy.sock",
        access_log="/dev/stdout",
        temporary="/tmp",
        admin="",
        certificates="/usr/local/etc/haproxy/certificates",
    ),
    "nginx": EnginePaths(
        folder="/etc/nginx",
        pid="/run/nginx.pid",
        socket="",
        access_log="/dev/stdout",
        temporary="/var/cache/nginx",
        admin="",
        certificates="",
    ),
}
"""Where the engines' official images expect their files."""


def render_files(engine: str, model: GatewayModel, instances: Instances, paths: EnginePaths) -> Files:
    """The files by name. `RequestError` for an engine that is another; `ConfigError` for what cannot be rendered.

    HAProxy needs `certificates/0.pem` and so on beside them, each a certificate and its key in one.
    """
    if engine not in RENDERERS:
        raise RequestError(f"there is no engine {engine!r} with files; there are {', '.join(RENDERERS)}")
    # Only nginx must be told the names, and only where the model leaves them out are the certificates opened.
    return RENDERERS[engine](with_hosts(model) if engine == "nginx" else model, instances, paths)
