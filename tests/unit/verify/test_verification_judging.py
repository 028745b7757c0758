"""What the checks decide from what they saw; no cluster needed."""

from collections.abc import Mapping

import pytest

from noctule.base.errors import ConfigError, UnavailableError
from noctule.verify.verification.distribution import (
    PROBLEMS_SHOWN_MAX,
    problems_of_balance,
    problems_of_coverage,
    shortened,
)
from noctule.verify.verification.endpoints import OF_INSTANCE, StatusBody, problem_of, problem_of_instance
from noctule.verify.verification.options import Options
from noctule.verify.verification.sessions import WhoAmI, problem_of_visit
from noctule.verify.verification.subject import SignedIn
from noctule.verify.verification.visitor import Reply

IDS = ["web-1", "web-2", "web-3"]
BEFORE = SignedIn("Ada", "0123abcd", 5)


def reply(body: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
    return Reply("GET", "http://web/health", status, headers or {}, body, 1.0)


@pytest.mark.parametrize(
    ("counts", "judged"),
    [
        ((10, 10, 10), []),
        ((5, 5, 20), []),
        ((20, 5, 5), []),
        ((4, 13, 13), ["web-1"]),
        ((21, 5, 4), ["web-1", "web-3"]),
        ((0, 15, 15), ["web-1"]),
    ],
)
def test_each_share_is_between_half_and_double_the_even_one(counts: tuple[int, ...], judged: list[str]) -> None:
    problems = problems_of_balance(IDS, dict(zip(IDS, counts, strict=True)))
    assert [problem.split()[0] for problem in problems] == judged


def test_coverage_tells_of_who_got_nothing_and_who_should_have() -> None:
    assert problems_of_coverage(IDS, {"web-1": 1, "web-2": 1, "web-3": 1}) == []
    assert problems_of_coverage(IDS, {"web-1": 3, "web-3": 1}) == ["web-2 got none of 4 requests"]
    assert problems_of_coverage(["web-1"], {"web-1": 3, "old": 1}) == [
        "old answered 1 requests and is not among the known instances"
    ]
    assert "raise --requests" in problems_of_coverage(IDS, {"web-1": 1, "web-2": 1})[-1]


def test_long_lists_of_problems_say_how_many_more_there_are() -> None:
    problems = [str(number) for number in range(PROBLEMS_SHOWN_MAX + 2)]
    assert shortened(problems)[-1] == "and 2 more"
    assert len(shortened(problems)) == PROBLEMS_SHOWN_MAX + 1
    assert shortened(problems[:PROBLEMS_SHOWN_MAX]) == problems[:PROBLEMS_SHOWN_MAX]


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (WhoAmI("Ada", 6, "0123abcd"), ""),
        (WhoAmI("Ada", 9, "0123abcd"), ""),
        (WhoAmI("Ada", 5, "0123abcd"), "went from 5 to 5"),
        (WhoAmI("Ada", 1, "0123abcd"), "went from 5 to 1"),
        (WhoAmI("Bob", 6, "0123abcd"), "is that of 'Bob'"),
        (WhoAmI(None, 6, None), "is that of None"),
        (WhoAmI("Ada", 6, "ffffffff"), "is 'ffffffff' instead of '0123abcd'"),
    ],
)
def test_a_visit_must_agree_with_the_one_before(seen: WhoAmI, words: str) -> None:
    problem = problem_of_visit(BEFORE, seen)
    assert words in problem
    assert bool(problem) == bool(words)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/health", b'{"status":"ok","instanceId":"web-1","uptime_s":2}'),
        ("/health/live", b'{"status":"ok"}'),
        ("/health/ready", b'{"status":"ok","reason":""}'),
        ("/health/backend", b'{"status":"ok","instanceId":"web-1","checks":{"store":{"status":"ok","latency_ms":1}}}'),
    ],
)
def test_each_endpoint_has_its_shape_and_every_field_counts(path: str, body: bytes) -> None:
    assert problem_of(reply(body), OF_INSTANCE[path]) == ""
    required = {"/health": [b"status", b"instanceId", b"uptime_s"], "/health/backend": [b"instanceId", b"checks"]}
    for name in required.get(path, [b"status"]):
        assert "wrong JSON" in problem_of(reply(body.replace(b'"' + name + b'"', b'"other"', 1)), OF_INSTANCE[path])


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (reply(b'{"status":"ok"}', 503), "503 instead of 200"),
        (reply(b'{"status":"ok"}', 204), "204 instead of 200"),
        (reply(b"", 404), "an empty body"),
        (reply(b'{"status":"unavailable"}'), "'unavailable' instead of 'ok'"),
        (reply(b"<h1>hello</h1>"), "wrong JSON"),
        (reply(b'["ok"]'), "wrong JSON"),
        (UnavailableError("gone"), "gone"),
    ],
)
def test_what_is_wrong_with_an_endpoint_is_said(answer: Reply | UnavailableError, words: str) -> None:
    assert words in problem_of(answer, StatusBody)


def test_who_answered_is_in_the_header_or_else_in_the_body() -> None:
    assert reply(b'{"instanceId":"body"}', headers={"X-Noctule-Instance": "header"}).instance == "header"
    assert reply(b'{"instanceId":"body"}').instance == "body"
    assert reply(b'{"instance":"body"}').instance == "body"
    assert reply(b"<h1>").instance == ""


def test_an_instance_must_answer_under_its_own_name() -> None:
    named = reply(b'{"status":"ok"}', headers={"X-Noctule-Instance": "web-1"})
    assert problem_of_instance(named, "web-1", StatusBody) == ""
    assert "answered by web-1 instead of web-2" in problem_of_instance(named, "web-2", StatusBody)
    assert "answered by nobody by name" in problem_of_instance(reply(b'{"status":"ok"}'), "web-2", StatusBody)


def test_all_wrong_options_are_told_at_once() -> None:
    Options().validate()
    with pytest.raises(ConfigError) as caught:
        Options(
            node="node", instances=("x",), requests=0, timeout_s=0, sign_in_path="a", session_path="http://b/"
        ).validate()
    for words in ("--node", "--instance 'x'", "--requests", "--timeout-s", "--sign-in-path", "--session-path"):
        assert words in str(caught.value)
