"""The reference that others are compared with is really Consul 1.8.7, and forgets from test to test."""

import json
import urllib.request

import pytest
from engines import ConsulServer

pytest_plugins = ("engines",)
pytestmark = pytest.mark.integration


def test_it_is_the_consul_that_the_names_are_of(consul_server: ConsulServer) -> None:
    with urllib.request.urlopen(f"{consul_server.url}/v1/agent/self") as answer:
        config = json.load(answer)["Config"]
    assert config["Version"] == "1.8.7"
    with urllib.request.urlopen(f"{consul_server.url}/v1/catalog/services") as answer:
        assert json.load(answer) == {"consul": []}
