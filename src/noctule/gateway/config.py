"""The settings of one data plane."""

import ipaddress
from dataclasses import dataclass
from functools import cached_property

from noctule.base.errors import ConfigError
from noctule.gateway.model import GatewayModel

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True)
class GatewayConfig:
    """Every setting with its unit; `validate` reports all that is wrong at once."""

    host: str = "127.0.0.1"
    """The address to listen on; 0.0.0.0 or :: opens the gateway to the network."""
    port: int = 8080
    """0 lets the system choose; `Gateway.port` tells."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses or networks whose forwarding headers are believed and added to. Danger: whoever is in here can claim
    any client address. From everybody else those headers are dropped and written anew."""
    body_bytes_max: int = 64 * 1024 * 1024
    """A longer request body is answered 413."""
    header_bytes_max: int = 16 * 1024
    """The longest header line, either way; a client's longer one is answered 400."""
    websocket_message_bytes_max: int = 4 * 1024 * 1024
    """A longer WebSocket message ends the connection with code 1009, for one is held in memory whole."""
    websocket_heartbeat_s: float = 30.0
    """A WebSocket's side that was silent for this long is pinged, and given up when it then does not answer in half
    the time: otherwise a machine that vanished would hold its peer for ever."""
    in_flight_max: int = 4_096
    """Requests and WebSockets at once; one more is answered 503. Each holds two sockets."""
    connect_timeout_s: float = 1.0
    """Instances are near; one that does not accept within this is passed over."""
    response_timeout_s: float = 30.0
    """How long an instance may take to begin its response once it has the request, else 504; and to take in each
    piece of a request body."""
    idle_timeout_s: float = 60.0
    """The longest pause within a body, of either side, before the request is given up."""
    client_idle_s: float = 75.0
    """How long a client's connection is kept open for its next request."""
    health_path: str = "/health/ready"
    """Asked at every instance; a 2xx is good, everything else and silence is not."""
    health_interval_s: float = 0.5
    health_timeout_s: float = 1.0

    def validate(self) -> None:
        """Raise one `ConfigError` that names every setting that is wrong."""
        problems = [
            f"{name} is {getattr(self, name)}; it must be more than 0"
            for name in (
                "body_bytes_max",
                "header_bytes_max",
                "websocket_message_bytes_max",
                "websocket_heartbeat_s",
                "in_flight_max",
                "connect_timeout_s",
                "response_timeout_s",
                "idle_timeout_s",
                "client_idle_s",
                "health_interval_s",
                "health_timeout_s",
            )
            if getattr(self, name) <= 0
        ]
        if not 0 <= self.port <= 65_535:
            problems.append(f"port is {self.port}; it must be 0 (the system chooses) to 65535")
        if not self.health_path.startswith("/"):
            problems.append(f"health_path is {self.health_path!r}; it must begin with /")
        for text in self.trusted_proxies:
            try:
                ipaddress.ip_network(text, strict=False)
            except ValueError:
                problems.append(f"trusted_proxies has {text!r}; it must be an address or a network such as 10.0.0.0/8")
        if problems:
            raise ConfigError("gateway: " + "; ".join(problems))

    @cached_property
    def trusted_networks(self) -> tuple[Network, ...]:
        """`trusted_proxies`, parsed."""
        return tuple(ipaddress.ip_network(text, strict=False) for text in self.trusted_proxies)


def config_of(model: GatewayModel) -> GatewayConfig:
    """What of a model this data plane takes in when it starts; timeouts are those of its first service."""
    service = model.services[0]
    return GatewayConfig(
        host=model.host,
        port=model.port,
        trusted_proxies=model.trusted_proxies,
        body_bytes_max=model.limits.body_bytes_max,
        header_bytes_max=model.limits.header_bytes_max,
        in_flight_max=model.limits.in_flight_max,
        connect_timeout_s=service.connect_timeout_s,
        response_timeout_s=service.response_timeout_s,
        idle_timeout_s=service.idle_timeout_s,
        client_idle_s=model.limits.client_idle_s,
        health_path=service.check.path,
        health_interval_s=service.check.interval_s,
        health_timeout_s=service.check.timeout_s,
    )
