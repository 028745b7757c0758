"""What the registry says of a service, read from Consul's `/v1/health/service/<name>`.

All instances are asked for, also those that fail their checks: so one that is listed as critical can be told from one
that is not listed at all, which is what `held_list.py` decides by.
"""

import re
from itertools import islice

import msgspec
from msgspec import Struct

from noctule.base.addresses import join_address
from noctule.base.errors import ProtocolError

INSTANCES_MAX = 1_024
"""Of one service; further ones are not used."""

_ADDRESS = re.compile(r"[0-9A-Za-z._:%-]{1,253}")
"""What is put into a URL as it is."""


class Endpoint(Struct, frozen=True):
    """Where one instance of a service serves."""

    id: str
    """``<node>/<id of the service>``: unique in the registry, and the same after a restart of the instance."""
    address: str
    """A host name or an IP address, without brackets."""
    port: int
    weight: int = 1
    """By its health, as registered."""
    zone: str = ""
    """The ``zone`` in the metadata of the service, or of its node."""
    tags: tuple[str, ...] = ()

    @property
    def authority(self) -> str:
        """As in a URL: ``10.0.0.1:80``, ``[::1]:80``."""
        return join_address(self.address, self.port)


class Instance(Struct, frozen=True):
    """An endpoint, and whether it may be used: none of its checks is critical."""

    endpoint: Endpoint
    is_usable: bool


class _Node(Struct, rename="pascal"):
    node: str
    address: str = ""
    meta: dict[str, str] | None = None


class _Weights(Struct, rename="pascal"):
    passing: int = 1
    warning: int = 1


class _Service(Struct, rename="pascal"):
    id: str = msgspec.field(name="ID")
    port: int = 0
    address: str = ""
    tags: list[str] | None = None
    meta: dict[str, str] | None = None
    weights: _Weights | None = None


class _Check(Struct, rename="pascal"):
    status: str


class _Entry(Struct, rename="pascal"):
    node: _Node
    service: _Service
    checks: list[_Check] | None = None


_decoder = msgspec.json.Decoder(list[_Entry])


def read_instances(body: bytes) -> tuple[Instance, ...]:
    """The instances in the registry's order, at most `INSTANCES_MAX`; without those that nobody can connect to.

    That is one without a port, or with an address that is neither a name nor an IP address.

    `ProtocolError` when the body is not what Consul's API gives.
    """
    try:
        entries = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProtocolError(f"the registry's answer is not a list of instances: {error}") from error
    instances = (_instance(entry) for entry in entries)
    return tuple(islice((each for each in instances if _can_be_reached(each.endpoint)), INSTANCES_MAX))


def _can_be_reached(endpoint: Endpoint) -> bool:
    return 0 < endpoint.port < 65_536 and _ADDRESS.fullmatch(endpoint.address) is not None


def _instance(entry: _Entry) -> Instance:
    node, service = entry.node, entry.service
    statuses = {check.status for check in entry.checks or ()}
    weights = service.weights or _Weights()
    endpoint = Endpoint(
        id=f"{node.node}/{service.id}",
        address=service.address or node.address,
        port=service.port,
        weight=weights.warning if "warning" in statuses else weights.passing,
        zone=(service.meta or {}).get("zone") or (node.meta or {}).get("zone", ""),
        tags=tuple(service.tags or ()),
    )
    # Consul knows a fourth status, of nodes and services in maintenance, which stands for critical.
    return Instance(endpoint, is_usable=statuses <= {"passing", "warning"})
