"""A gateway's config: the example is whole and right, and what is wrong is told with its table and field."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noctule.base.errors import ConfigError
from noctule.core.balance.routing import RouteTable
from noctule.gateway.model import ActiveCheck, Algorithm, GatewayModel, Route, Service, Share
from noctule.gateway.model_file import MODEL_BYTES_MAX, load_model, model_of, parse_model
from noctule.gateway.model_reference import EXAMPLE, every_setting, read_sections, render_gateway_reference
from noctule.gateway.orders import Orders

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "gateway.md"
SMALL = """
[[services]]
name = "shop"
instances = ["127.0.0.1:8001"]
{service}
[[routes]]
name = "shop"
shares = [{{ service = "shop" }}]
{route}
"""


def small(service: str = "", route: str = "", top: str = "") -> bytes:
    return (top + SMALL.format(service=service, route=route)).encode()


def complaint(content: bytes) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_model(content, "gateway.toml")
    assert "gateway.toml" in str(caught.value)
    return str(caught.value)


def test_the_example_is_right_and_shows_every_setting() -> None:
    model = load_model(EXAMPLE)
    assert [service.name for service in model.services] == ["shop", "shop-next"]
    shown = {(section.path, key) for section in read_sections() for key, _, _ in section.settings}
    assert {each for each in every_setting() if each not in shown} == set()


def test_every_setting_of_the_example_is_explained_where_it_comes_first() -> None:
    explained = {(section.path, key) for section in read_sections() for key, _, words in section.settings if words}
    shown = {(section.path, key) for section in read_sections() for key, _, _ in section.settings}
    assert {each for each in shown - explained if not each[0].startswith("routes.response_headers")} == set()


def test_the_reference_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == render_gateway_reference(), "run scripts/render_reference.py"


def test_a_small_file_is_enough() -> None:
    assert parse_model(small(), "gateway.toml") == GatewayModel(
        services=(Service(name="shop", instances=("127.0.0.1:8001",)),),
        routes=(Route(name="shop", shares=(Share("shop"),)),),
    )


def test_values_arrive() -> None:
    model = parse_model(small('algorithm = "ip-hash"\ncheck = { interval_s = 2, enabled = false }'), "gateway.toml")
    assert model.services[0].algorithm is Algorithm.IP_HASH
    assert model.services[0].check == ActiveCheck(interval_s=2.0, enabled=False)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"port = ", "is not TOML"),
        (b"\xff", "is not TOML"),
        (b"# " + b"x" * MODEL_BYTES_MAX, "is longer than"),
        (small(top="prot = 8080\n"), r"there is no setting prot; did you mean 'port'\?"),
        (small('weight = "2"'), r"there is no setting services\[0\] \(shop\)\.weight; there are"),
        (
            small("check = { intervall_s = 1 }"),
            r"services\[0\] \(shop\)\.check\.intervall_s; did you mean 'interval_s'",
        ),
        (small("fails_max = 1.5"), r"services\[0\] \(shop\)\.fails_max: expected `int`, got `float`"),
        (
            small('algorithm = "fastest"'),
            r"services\[0\] \(shop\)\.algorithm: invalid enum value 'fastest'; there are .*ip-hash",
        ),
        (small(route="host = 3"), r"routes\[0\] \(shop\)\.host: expected `str`"),
        (b'services = "x"', r"services must be a list of tables: write \[\[services\]\]"),
        (b"[[routes]]\npath='/'", r"routes\[0\] needs name"),
        (small("sticky = 3"), r"services\[0\] \(shop\)\.sticky must be a table, not 3"),
        (b"", "there is no service"),
    ],
)
def test_what_cannot_be_read_is_told_with_table_and_field(content: bytes, words: str) -> None:
    assert re.search(words, complaint(content))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (small(top="port = 65536\n"), "port is 65536; it must be 0 to 65,535"),
        (small(top="workers = 0\n"), "workers is 0"),
        (small(top="tls_port = 8443\n"), "tls_port is given and no certificate"),
        (small(top="redirect_to_tls = true\n"), "redirect_to_tls needs a tls_port"),
        (small(top='trusted_proxies = ["10.0.0.0/99"]\n'), "trusted_proxies has '10.0.0.0/99'"),
        (small(top='registry_nodes = ["127.0.0.1:7501"]\n'), "registry_nodes has '127.0.0.1:7501'"),
        (small(top="limits = { in_flight_max = 0 }\n"), "limits.in_flight_max is 0"),
        (small(top='compression = { encodings = ["rar"] }\n'), "compression.encodings has 'rar'"),
        (small('registry = "shop"'), "service 'shop': give either instances, or the registry's name"),
        (small('tag = "green"'), "tag chooses among a registry's instances"),
        (small("retries_max = -1"), "service 'shop': retries_max is -1; it must be 0 to 10"),
        (small("outlier_ratio = nan"), "outlier_ratio is nan"),
        (small("check = { interval_s = 0 }"), "check.interval_s is 0; it must be more than 0"),
        (small('check = { path = "health" }'), "check.path has 'health'"),
        (small('sticky = { cookie = "a b" }'), "sticky.cookie has 'a b'"),
        (small('algorithm = "consistent-hash"\nhash_on = "path"'), "hash_on is 'path'"),
        (small(route='path = "api"'), "route 'shop': path has 'api'"),
        (small(route='path = "/?x"'), "it must begin with / and have no query"),
        (small(route='host = "a..b"'), "host has 'a..b'"),
        (small(route='split_on = "cookie"'), "split_on is 'cookie'; it must be request, client, header:<name>"),
        (small(route='request_headers = { set = { "Content-Length" = "1" } }'), "'Content-Length', which is the conn"),
        (small(route='response_headers = { add = { "X-A" = "a\\r\\nb" } }'), "the value of X-A must be one line"),
        (
            small(route='[[routes]]\nname = "other"\nshares = [{ service = "shop" }]'),
            "route 'other' matches the same requests as route 'shop'",
        ),
        (
            small(route='[[routes]]\nname = "o"\npath = "/o"\nshares = [{ service = "x", percent = 40 }]'),
            "there is no service 'x'; there are shop; route 'o': shares sum to 40; they must sum to 100",
        ),
        (small().replace(b"127.0.0.1:8001", b"127.0.0.1"), "'127.0.0.1' must be host:port or host:port*weight"),
        (small().replace(b":8001", b":8001*0"), "has weight 0; it must be 1 to 256"),
        (small().replace(b'["127.0.0.1:8001"]', b'["a:1", "a:1*2"]'), "instances has a:1 twice"),
    ],
)
def test_what_cannot_be_is_told(content: bytes, words: str) -> None:
    assert words in complaint(content)


def test_all_problems_are_told_at_once() -> None:
    told = complaint(small("fails_max = -1", 'path = "x"', "port = -1\n"))
    assert all(words in told for words in ("port is -1", "fails_max is -1", "path has 'x'"))


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def places(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value in a document."""
    if not isinstance(document, dict | list):
        return
    for key, value in document.items() if isinstance(document, dict) else enumerate(document):
        yield (*path, key)
        yield from places(value, (*path, key))


@given(st.data())
@settings(max_examples=400)
def test_whatever_stands_in_a_config_the_answer_is_a_model_or_a_complaint(data: st.DataObject) -> None:
    document = tomllib.loads(EXAMPLE.read_text(encoding="utf-8"))
    *way, last = data.draw(st.sampled_from(list(places(document))))
    target = document
    for step in way:
        target = target[step]
    target[last] = data.draw(json_values)
    try:
        model = model_of(document, "the test")
    except ConfigError:
        return
    # What passes can be carried out.
    Orders(model).instances_of(model.services[0])
    RouteTable(model.routes).match("shop.example.com", "/", lambda _: None)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the gateway's config .*nowhere\.toml: No such file"):
        load_model(tmp_path / "nowhere.toml")


def test_the_model_survives_json() -> None:
    """As the admin API gives it and takes it."""
    model = load_model(EXAMPLE)
    assert model_of(msgspec.json.decode(msgspec.json.encode(model)), "the request") == model
