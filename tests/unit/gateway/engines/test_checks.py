"""Nothing becomes part of a config that could be read as something else."""

import msgspec
import pytest

from noctule.base.errors import ConfigError
from noctule.gateway.engines.checks import check_renderable
from noctule.gateway.engines.engine import EnginePaths, engine_name, listed
from noctule.gateway.engines.haproxy import quote as haproxy_quote
from noctule.gateway.engines.nginx import render_nginx
from noctule.gateway.engines.nginx_text import quote, quote_value
from noctule.gateway.instances import Instance, Standing
from noctule.gateway.model import GatewayModel, HeaderRules, Route, Service, Share, Sticky
from tests.unit.gateway.engines.models import everything

MODEL = GatewayModel(services=(Service(name="app", registry="app"),), routes=(Route(name="r", shares=(Share("app"),)),))


def with_route(**changes: object) -> GatewayModel:
    return msgspec.structs.replace(MODEL, routes=(msgspec.structs.replace(MODEL.routes[0], **changes),))


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        (with_route(name="r\n  acl x"), "the name of a route"),
        (with_route(host="a.b; return 200"), "host has 'a.b; return 200'"),
        (with_route(path="/a b"), "path has '/a b'"),
        (with_route(path="/\n"), "path has"),
        (with_route(headers={"X Y": "1"}), "headers has 'X Y'"),
        (with_route(headers={"X": "a\nb"}), "X cannot have the value"),
        (with_route(request_headers=HeaderRules(set={"X": "a\r\nEvil: 1"})), "must be one line"),
        (with_route(response_headers=HeaderRules(add={"X": ""})), "the value of X is empty"),
        (with_route(response_headers=HeaderRules(set={"Content-Length": "1"})), "Content-Length"),
        (msgspec.structs.replace(MODEL, host="127.0.0.1 ssl"), "host is"),
        (msgspec.structs.replace(MODEL, port=0), "port is 0"),
        (msgspec.structs.replace(MODEL, trusted_proxies=("fe80::1%eth0",)), "zones"),
    ],
)
def test_a_model_that_cannot_be_rendered_is_told(model: GatewayModel, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        check_renderable(model, {})


@pytest.mark.parametrize(
    ("instances", "problem"),
    [
        ([Instance("a", "10.0.0.1; evil", 80)], "no usable address"),
        ([Instance("a", "10.0.0.1", 0)], "no usable address"),
        ([Instance("a", "10.0.0.1", 80, weight=257)], "weight 257"),
        ([Instance("a", "10.0.0.1", 80), Instance("a", "10.0.0.2", 80)], "two instances of one id"),
        ([Instance(str(n), "10.0.0.1", n + 1) for n in range(1_025)], "1025 instances"),
    ],
)
def test_an_instance_that_cannot_be_rendered_is_told(instances: list[Instance], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        check_renderable(MODEL, {"app": instances})


def test_what_nginx_cannot_do_is_told_before_nginx_is_asked() -> None:
    service = Service(name="app", registry="app", sticky=Sticky(cookie="my-seat"))
    model = msgspec.structs.replace(MODEL, services=(service,))
    with pytest.raises(ConfigError, match="letters, digits and underscores") as caught:
        render_nginx(model, {"app": [Instance("a", "app1", 80)]}, EnginePaths("/", "", "", "", "", "", ""))
    assert "by their addresses" in str(caught.value)


def test_a_text_stays_one_word() -> None:
    assert haproxy_quote('a "b" $c \\d %e') == r'"a \"b\" \$c \\d %e"'
    assert quote('a "b" $c \\d;{}') == r'"a \"b\" $c \\d;{}"'
    assert quote_value("$c") == '"${noctule_dollar}c"'


def test_ids_of_a_registry_become_names() -> None:
    assert engine_name("app-1") == "app-1"
    strange = [engine_name(text) for text in ("a b", "a/b", "a\nb", "é", "", "x" * 200, "_x")]
    assert len(set(strange)) == len(strange)
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") for name in strange)


def test_an_address_is_listed_once_and_a_critical_instance_never() -> None:
    instances = {
        "app": [
            Instance("old", "10.0.0.1", 80, standing=Standing.DRAINING),
            Instance("new", "10.0.0.1", 80),
            Instance("newer", "10.0.0.1", 80),
            Instance("gone", "10.0.0.2", 80, standing=Standing.CRITICAL),
            Instance("going", "10.0.0.3", 80, standing=Standing.DRAINING),
        ]
    }
    assert [each.id for each in listed(instances, MODEL.services[0])] == ["new", "going"]


def test_a_folder_that_would_be_syntax_is_refused() -> None:
    from pathlib import Path

    for name in ("/tmp/a b", "/tmp/a;b", "/tmp/$x", "/tmp/a)b"):
        with pytest.raises(ConfigError, match="cannot be an engine's folder"):
            EnginePaths.within(Path(name))


def test_the_named_models_are_renderable() -> None:
    check_renderable(*everything())
