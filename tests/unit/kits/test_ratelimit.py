"""The middleware: which requests count for whom, what they are told, and addresses that cannot be claimed."""

from typing import Any

import msgspec
import pytest

from noctule.base.errors import ConfigError
from noctule.core.limits.policy import API, AUTHENTICATION, UPLOAD, OnStoreLoss, Policy
from noctule.kits.asgi import Message, Receive, Scope, Send, send_json
from noctule.kits.client_address import client_address, parse_networks, subject_of
from noctule.kits.limiter import Decision, Limiter
from noctule.kits.ratelimit import RateLimits, Rule


class Ledger(Limiter):
    """A limiter that admits until it is told otherwise, and notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, tuple[str, ...], int]] = []
        self.refuses: set[str] = set()

    async def hit(self, policies: Any, subjects: Any, *, cost: int = 1) -> Decision:
        (policy,) = policies
        self.asked.append((policy.name, tuple(subjects), cost))
        is_admitted = policy.name not in self.refuses
        retry_s = 0.0 if is_admitted else 12.3
        return Decision(is_admitted, policy, subjects[0], policy.limit, 4 if is_admitted else 0, 60.2, retry_s)


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    await send_json(send, 200, {"path": scope["path"]})


async def ask(
    limits: RateLimits, path: str, method: str = "GET", *, client: str = "192.0.2.7", **headers: str
) -> tuple[int, dict[str, str], Any]:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        raise AssertionError("nobody reads")

    encoded = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    await limits(
        {"type": "http", "method": method, "path": path, "headers": encoded, "client": (client, 1)}, receive, send
    )
    told = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], told, msgspec.json.decode(sent[1]["body"])


RULES = [
    Rule(AUTHENTICATION, paths=("/login",), methods=("POST",), by=("ip", "user")),
    Rule(API, paths=("/api",), by=("token", "ip")),
    Rule(UPLOAD, paths=("/api/files",), methods=("PUT", "POST"), by=("user", "route"), cost=2),
]


async def test_each_policy_counts_what_it_is_for() -> None:
    ledger = Ledger()
    limits = RateLimits(app, rules=RULES, limiter=ledger, identify=lambda _: "ada")
    await ask(limits, "/")
    await ask(limits, "/login")
    await ask(limits, "/apix")
    assert ledger.asked == []
    await ask(limits, "/login", "POST")
    await ask(limits, "/api")
    await ask(limits, "/api/files/1", "PUT", authorization="Bearer secret")
    assert ledger.asked == [
        ("auth", ("ip:192.0.2.7", "user:ada"), 1),
        ("api", ("ip:192.0.2.7",), 1),
        ("api", ("token:2bb80d537b1da3e38bd30361aa855686", "ip:192.0.2.7"), 1),
        ("upload", ("user:ada", "route:upload"), 2),
    ]


async def test_a_refusal_says_why_and_when_and_never_reaches_the_app() -> None:
    ledger = Ledger()
    ledger.refuses.add("auth")
    status, headers, body = await ask(RateLimits(app, rules=RULES, limiter=ledger), "/login", "POST")
    assert status == 429
    assert headers["retry-after"] == "13"
    assert headers["ratelimit-policy"] == '"auth";q=5;w=900'
    assert headers["ratelimit"] == '"auth";r=0;t=61'
    assert body["error"]["code"] == "rate_limited"
    assert "limit of 5 in 900 s" in body["error"]["message"]
    assert body["error"]["outcome"] == "not_applied"


async def test_who_is_admitted_is_told_what_is_left() -> None:
    status, headers, body = await ask(RateLimits(app, rules=RULES, limiter=Ledger()), "/api")
    assert (status, body) == (200, {"path": "/api"})
    assert headers["x-ratelimit-limit"] == "100"
    assert headers["x-ratelimit-remaining"] == "4"


async def test_a_handshake_is_refused_with_the_code_for_later() -> None:
    ledger = Ledger()
    ledger.refuses.add("api")
    limits = RateLimits(app, rules=RULES, limiter=ledger)
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "websocket", "path": "/api/live", "headers": [], "client": ("192.0.2.7", 1)}
    await limits(scope, send, send)  # type: ignore[arg-type]
    assert sent == [{"type": "websocket.close", "code": 1013, "reason": "rate limited"}]


def test_forwarded_addresses_are_believed_only_from_proxies() -> None:
    trusted = parse_networks(["10.0.0.0/8", "fd00::/8"])

    def of(peer: str, *forwarded: str) -> str:
        address = client_address(peer, [(b"x-forwarded-for", each.encode()) for each in forwarded], trusted)
        return str(address)

    assert of("192.0.2.7", "198.51.100.1") == "192.0.2.7", "an untrusted peer claims what it likes"
    assert of("10.0.0.1", "198.51.100.1") == "198.51.100.1"
    assert of("10.0.0.1", "203.0.113.9, 198.51.100.1, 10.1.1.1") == "198.51.100.1", "what stands before is claimed"
    assert of("10.0.0.1", "203.0.113.9", "198.51.100.1") == "198.51.100.1"
    assert of("10.0.0.1", "nonsense") == "10.0.0.1"
    assert of("10.0.0.1", "198.51.100.1:4711") == "198.51.100.1"
    assert of("fd00::1", "[2001:db8::1]:4711") == "2001:db8::1"
    assert of("::ffff:192.0.2.7") == "192.0.2.7"


def test_an_ipv6_customer_is_one_subject() -> None:
    one, other = client_address("2001:db8:1:2::1", [], ()), client_address("2001:db8:1:2:ffff::9", [], ())
    assert one is not None
    assert other is not None
    assert subject_of(one) == subject_of(other) == "ip:2001:db8:1:2::/64"


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (lambda: Policy(name="a b", limit=1, window_s=1), "letters"),
        (lambda: Policy(name="a", limit=0, window_s=1), "limit is 0"),
        (lambda: Policy(name="a", limit=1, window_s=0), "window_s"),
        (lambda: Policy(name="a", limit=1, window_s=1, strict_limit=2), "strict_limit"),
        (lambda: Rule(API, paths=("api",)), "begin with /"),
        (lambda: Rule(API, cost=101), "cost"),
        (lambda: RateLimits(app, rules=[]), "no rule"),
        (lambda: parse_networks(["10.0.0.0/99"]), "trusted_proxies"),
    ],
)
def test_what_cannot_work_is_refused_at_once(wrong: Any, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        wrong()


def test_the_default_table() -> None:
    """Rows O-42 to O-44."""
    table = [(each.name, each.limit, each.strict_limit, each.window_s) for each in (AUTHENTICATION, API, UPLOAD)]
    assert table == [("auth", 5, 3, 900), ("api", 100, 50, 600), ("upload", 10, 5, 3600)]
    assert AUTHENTICATION.on_store_loss is OnStoreLoss.CLOSED
