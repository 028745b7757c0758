"""host:port as text: IPv6 hosts have brackets before a port, and nowhere else."""

import pytest

from noctule.base.addresses import bracketed, join_address, split_address


@pytest.mark.parametrize(
    ("address", "host"), [("a.b:1", "a.b"), ("10.0.0.1:1", "10.0.0.1"), ("[fe80::1]:1", "fe80::1")]
)
def test_an_address_is_split_at_its_last_colon_and_joined_again(address: str, host: str) -> None:
    assert split_address(address) == (host, 1)
    assert join_address(host, 1) == address


def test_brackets_are_put_once() -> None:
    assert bracketed(bracketed("::1")) == "[::1]"
    assert bracketed("a.b") == "a.b"


@pytest.mark.parametrize("address", ["", "a", "a:", "a:b"])
def test_an_address_without_a_port_is_none(address: str) -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        split_address(address)
