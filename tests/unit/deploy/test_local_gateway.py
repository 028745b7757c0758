"""The gateway of ``noctule up`` is a gateway like any other: one route, one service, a model that passes the checks."""

from pathlib import Path

import pytest

from noctule.base.errors import ConfigError
from noctule.deploy.local.cluster import model_of
from noctule.deploy.local.plan import Plan
from noctule.gateway.model import Sticky


def plan(*, is_sticky: bool = False) -> Plan:
    return Plan(
        cluster="local",
        service="shop",
        data_dir=Path("data"),
        gateway_host="127.0.0.1",
        gateway_port=8080,
        nodes=(),
        instances=(),
        is_sticky=is_sticky,
    )


def test_its_model_is_right_but_for_the_instances_which_the_supervisor_lists() -> None:
    with pytest.raises(ConfigError) as caught:
        model_of(plan()).validate()
    only = "gateway: service 'shop': give either instances, or the registry's name for it"
    assert str(caught.value) == only


def test_sticky_is_an_option_and_works_over_plain_http() -> None:
    assert model_of(plan()).services[0].sticky is None
    assert model_of(plan(is_sticky=True)).services[0].sticky == Sticky(secure=False)
