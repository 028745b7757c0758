"""Settings are checked all at once, each with what to do."""

import pytest

from noctule.base.errors import ConfigError
from noctule.gateway.config import GatewayConfig
from noctule.gateway.instances import Instance


def test_the_defaults_are_valid() -> None:
    GatewayConfig().validate()


def test_every_problem_is_named_in_one_error() -> None:
    config = GatewayConfig(
        port=70_000, body_bytes_max=0, idle_timeout_s=-1.0, health_path="ready", trusted_proxies=("10.0.0.0/8", "lan")
    )
    with pytest.raises(ConfigError) as caught:
        config.validate()
    sentence = str(caught.value)
    for part in ("port is 70000", "body_bytes_max is 0", "idle_timeout_s is -1.0", "health_path is 'ready'", "'lan'"):
        assert part in sentence
    assert "\n" not in sentence


def test_an_address_can_be_dialled() -> None:
    assert Instance("a", "127.0.0.1", 80).address == "127.0.0.1:80"
    assert Instance("a", "::1", 80).address == "[::1]:80"
