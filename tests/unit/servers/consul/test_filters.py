"""Filters mean what go-bexpr means by them; each line of the table was asked of a real Consul too."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noctule.servers.consul.errors import ConsulError
from noctule.servers.consul.filters import load_filter
from noctule.servers.consul.selections import HEALTH_NAMES, SERVICE_NAMES

WEB = {
    "ID": "web1",
    "Service": "web",
    "Tags": ("a", "b"),
    "Meta": {"v": "1"},
    "Port": 80,
    "Address": "",
    "EnableTagOverride": False,
    "Weights": {"Passing": 1, "Warning": 1},
}
ENTRY = {"Node": {"Node": "n"}, "Service": WEB, "Checks": [{"Status": "passing"}, {"Status": "critical"}]}


@pytest.mark.parametrize(
    ("expression", "passes"),
    [
        ('Service == "web"', True),
        ("Service==web and Port==80", True),
        ("Service != web", False),
        ("web in Tags", False),
        ("a in Tags", True),
        ("a not in Tags", False),
        ("Tags is empty", False),
        ("Meta is not empty", True),
        ("Address is empty", True),
        ("Tags contains a", True),
        ("Tags not contains a", False),
        ("Meta.v == 1", True),
        ('Meta["v"]==1', True),
        ("Meta.zz==1", False),
        ("v in Meta", True),
        ("not Service==web", False),
        ("(Service==web or Port==1) and a in Tags", True),
        ("Service==x or Service==y or Port==`80`", True),
        ('Port=="80"', True),
        ("Weights.Passing == 1", True),
        ("EnableTagOverride == false", True),
        ('"a" in Tags', True),
    ],
)
def test_an_expression_means_what_consul_means(expression: str, *, passes: bool) -> None:
    test = load_filter(expression, SERVICE_NAMES)
    assert test is not None
    assert test(WEB) is passes


def test_a_selector_through_a_list_means_any_of_it() -> None:
    for expression, passes in (("Checks.Status == critical", True), ("Checks.Status == warning", False)):
        test = load_filter(expression, HEALTH_NAMES)
        assert test is not None
        assert test(ENTRY) is passes


@pytest.mark.parametrize(
    "expression",
    [
        "foo",
        "xx==",
        "Service",
        "Port < 5",
        "Foo==1",
        "Service.Foo==1",
        "Service==web extra",
        "(Service==web",
        "Service==",
        "a in",
        "Tags is full",
        'Service matches "w.*"',
        "not " * 100 + "Service==web",
        "(" * 100,
        "x" * 5_000,
        '"',
    ],
)
def test_what_is_no_expression_is_refused(expression: str) -> None:
    with pytest.raises(ConsulError, match="Failed to create boolean expression evaluator") as refused:
        load_filter(expression, SERVICE_NAMES)
    assert refused.value.status == 500


def test_none_is_no_filter() -> None:
    assert load_filter("", SERVICE_NAMES) is None
    assert load_filter("  ", SERVICE_NAMES) is None


WORDS = st.sampled_from(
    [
        "and",
        "or",
        "not",
        "in",
        "is",
        "empty",
        "contains",
        "==",
        "!=",
        "(",
        ")",
        ".",
        "Tags",
        "Meta",
        "Service",
        '"x"',
        "`y`",
        "z",
        "[",
    ]
)


@given(st.lists(WORDS, max_size=12).map(" ".join) | st.text(max_size=30))
def test_whatever_comes_is_a_test_or_refused(expression: str) -> None:
    with suppress(ConsulError):
        test = load_filter(expression, SERVICE_NAMES)
        assert test is None or test(WEB) in (True, False)
