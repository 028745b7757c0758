"""Models of gateways for the renderers' tests and for the real programs: named ones, and any valid one."""

from pathlib import Path

import msgspec
from hypothesis import strategies as st

from noctule.gateway.instances import Instance, Standing
from noctule.gateway.model import (
    ActiveCheck,
    Algorithm,
    Certificate,
    Compression,
    GatewayModel,
    HeaderRules,
    Limits,
    Route,
    Service,
    Share,
    Sticky,
)

EXAMPLE_TOML = Path(__file__).parents[4] / "examples/gateway/gateway.toml"
LIMITS = Limits(connections_max=1_000)
Instances = dict[str, tuple[Instance, ...]]


def example() -> tuple[GatewayModel, Instances]:
    """The one of the documents."""
    model = msgspec.toml.decode(EXAMPLE_TOML.read_bytes(), type=GatewayModel)
    return model, {service.name: service.fixed_instances for service in model.services}


def everything() -> tuple[GatewayModel, Instances]:
    """One of each thing that a model can hold, but for TLS."""
    model = GatewayModel(
        port=8080,
        trusted_proxies=("10.0.0.0/8", "fd00::/8"),
        limits=Limits(connections_max=1_000, body_bytes_max=1_000_000, in_flight_max=500, headers_max=50),
        compression=Compression(bytes_min=256, types=("text/html", "application/json")),
        services=(
            Service(name="blue", registry="app", tag="blue", sticky=Sticky(cookie="seat", ttl_s=3_600)),
            Service(name="green", registry="app", tag="green", algorithm=Algorithm.ROUND_ROBIN, connections_max=50),
            Service(
                name="files",
                registry="files",
                algorithm=Algorithm.CONSISTENT_HASH,
                hash_on="header:X-Tenant",
                check=ActiveCheck(enabled=False),
                retries_max=0,
                keepalive=0,
                slow_start_s=10.0,
            ),
            Service(name="near", registry="near", algorithm=Algorithm.IP_HASH, fails_max=0),
            Service(name="empty", registry="empty"),
        ),
        routes=(
            Route(name="all", shares=(Share("blue", 90), Share("green", 10)), split_on="cookie:seat"),
            Route(name="api", host="api.example.com", path="/v1", shares=(Share("blue", 99.5), Share("green", 0.5))),
            Route(
                name="api-beta",
                host="api.example.com",
                path="/v1",
                headers={"X-Beta": 'yes "$HOME" \\ %[src] {x}'},
                shares=(Share("green"),),
                request_headers=HeaderRules(
                    remove=("X-Debug",), set={"X-Edge": 'a "$b" \\ %c'}, add={"Via": "1.1 noctule"}
                ),
                response_headers=HeaderRules(
                    remove=("X-Powered-By",), set={"X-Frame-Options": "DENY"}, add={"Vary": "X-Beta"}
                ),
            ),
            Route(name="files", host="*.example.com", path="/files/a.b", shares=(Share("files"),), split_on="client"),
            Route(name="near", host="near.example.com", shares=(Share("near"),)),
            Route(name="health", path="/health", shares=(Share("empty"),), log=False),
        ),
    )
    instances = {
        "blue": (Instance("b1", "10.0.0.1", 8000), Instance("odd/id 1", "fd00::1", 8000, weight=5)),
        "green": (Instance("g1", "10.0.0.3", 8000, standing=Standing.DRAINING), Instance("g2", "10.0.0.4", 8000)),
        "files": (Instance("f1", "10.0.0.5", 8000), Instance("f2", "10.0.0.6", 8000, standing=Standing.CRITICAL)),
        "near": (Instance("n1", "10.0.0.7", 8000),),
    }
    return model, instances


NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,12}", fullmatch=True)
WORDS = st.from_regex(r"[A-Za-z0-9_]{1,10}", fullmatch=True)
HEADER_NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9-]{0,10}", fullmatch=True).filter(
    lambda name: name.lower() not in ("connection", "content-length", "keep-alive", "te", "trailer", "upgrade", "host")
)
VALUES = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp")) | st.sampled_from("\\\"'$%{}[];#~ \t`"),
    max_size=30,
).map(str.strip)
HOSTS = st.just("") | st.from_regex(r"(\*\.)?[a-z0-9]{1,5}(\.[a-z0-9](-?[a-z0-9]{1,3})?){1,2}", fullmatch=True)
PATHS = st.just("/") | st.from_regex(r"(/[!\"$-.0-9:;<=>@A-Z\[\\\]^_`a-z{|}~]{1,6}){1,3}/?", fullmatch=True).filter(
    lambda path: not set(path) & set("?#")
)
RULES = st.builds(
    HeaderRules,
    remove=st.lists(HEADER_NAMES, max_size=2).map(tuple),
    set=st.dictionaries(HEADER_NAMES, VALUES.filter(bool), max_size=2),
    add=st.dictionaries(HEADER_NAMES, VALUES.filter(bool), max_size=2),
)
PARTS = st.builds("{}:{}".format, st.just("header"), HEADER_NAMES) | st.builds("{}:{}".format, st.just("cookie"), WORDS)


@st.composite
def models(draw: st.DrawFn) -> tuple[GatewayModel, Instances]:
    """Any model that all engines can render, and instances for it."""
    names = draw(st.lists(NAMES, min_size=1, max_size=3, unique_by=str.lower))
    services = [
        Service(
            name=name,
            registry="r",
            algorithm=draw(st.sampled_from(Algorithm)),
            hash_on=draw(st.just("uri") | PARTS),
            sticky=draw(st.none() | st.builds(Sticky, cookie=WORDS, ttl_s=st.integers(0, 99), secure=st.booleans())),
            check=draw(st.builds(ActiveCheck, path=PATHS, enabled=st.booleans())),
            fails_max=draw(st.integers(0, 3)),
            slow_start_s=draw(st.sampled_from((0.0, 0.5, 10.0))),
            connections_max=draw(st.integers(0, 10)),
            keepalive=draw(st.integers(0, 40)),
            retries_max=draw(st.integers(0, 3)),
        )
        for name in names
    ]
    routes = []
    for number, name in enumerate(draw(st.lists(NAMES, min_size=1, max_size=4, unique_by=str.lower))):
        chosen = draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True))
        percents = draw(st.lists(st.integers(1, 10_000), min_size=len(chosen), max_size=len(chosen)))
        total = sum(percents)
        routes.append(
            Route(
                name=name,
                host=draw(HOSTS),
                # Different paths, so that no two routes are the same.
                path=draw(PATHS).rstrip("/") + f"/{number}",
                headers=draw(st.dictionaries(HEADER_NAMES, VALUES, max_size=2)),
                shares=tuple(Share(each, 100 * part / total) for each, part in zip(chosen, percents, strict=True)),
                split_on=draw(st.sampled_from(("request", "client")) | PARTS),
                request_headers=draw(RULES),
                response_headers=draw(RULES),
                log=draw(st.booleans()),
            )
        )
    model = GatewayModel(
        port=18_080,
        limits=LIMITS,
        services=tuple(services),
        routes=tuple(routes),
        trusted_proxies=draw(st.sampled_from(((), ("10.1.2.3/8",), ("::1", "127.0.0.1")))),
        compression=draw(st.builds(Compression, enabled=st.booleans(), bytes_min=st.integers(0, 999))),
        access_log=draw(st.booleans()),
        status=draw(st.booleans()),
    )
    ids = st.text(min_size=1, max_size=10)
    addresses = st.ip_addresses().map(lambda address: str(address).partition("%")[0])
    found = st.builds(Instance, ids, addresses, st.integers(1, 65_535), st.integers(1, 256), st.sampled_from(Standing))
    instances = {name: tuple(draw(st.lists(found, max_size=3, unique_by=lambda each: each.id))) for name in names}
    return model, instances


def with_tls(model: GatewayModel, certificate: Path, key: Path, tls_port: int) -> GatewayModel:
    """The model with a certificate."""
    own = Certificate(str(certificate), str(key), ("api.example.com",))
    return msgspec.structs.replace(model, tls_port=tls_port, certificates=(own,))
