"""Join tokens over HTTP. The text of one is in the answer to whoever makes it, and nowhere else."""

import random
from typing import Annotated

from msgspec import Meta, Struct

from noctule.adapters.system_clock import SystemClock
from noctule.core.meta.operations import CreateToken, RevokeToken
from noctule.core.meta.tokens import Token, hash_token, new_token
from noctule.servers.http_errors import NotFoundError
from noctule.servers.http_parameters import TOKEN_HASH
from noctule.servers.http_route import Answer, Call, json_answer, load_body

TTL_S_DEFAULT = 86_400.0
"""A day: long enough to bring up machines, short enough to be forgotten about."""

_chance = random.SystemRandom()
_clock = SystemClock()


class TokenWish(Struct, frozen=True, forbid_unknown_fields=True):
    """What kind of token is wanted."""

    reusable: bool = False
    """Whether it lets in more than one node."""
    ttl_s: Annotated[float, Meta(ge=0, le=365 * 86_400)] = TTL_S_DEFAULT
    """Seconds until it is void; 0: never."""
    note: Annotated[str, Meta(max_length=200)] = ""


class NewToken(Struct, frozen=True):
    """A token that was just made. Its text cannot be had again."""

    text: str
    hash: str
    reusable: bool
    expires_ms: int
    """Unix time; 0: never."""
    note: str


class TokenFacts(Struct, frozen=True):
    """What the cluster knows of a token."""

    hash: str
    reusable: bool
    expires_ms: int
    note: str
    created_ms: int


class TokenList(Struct, frozen=True):
    """The tokens by which nodes may join, the oldest first."""

    tokens: list[TokenFacts]


class TokenRevoked(Struct, frozen=True):
    """A token that lets nobody in any more."""

    hash: str


async def create_token(call: Call) -> Answer:
    """Make a token."""
    wish = load_body(call, TokenWish)
    text = new_token(_chance)
    expires_ms = _clock.wall_ms() + round(wish.ttl_s * 1000) if wish.ttl_s else 0
    await call.node.cluster.operate(CreateToken(hash_token(text), wish.reusable, expires_ms, wish.note))
    return json_answer(NewToken(text, hash_token(text), wish.reusable, expires_ms, wish.note))


async def list_tokens(call: Call) -> Answer:
    """Those that are valid; void ones are left out."""
    now_ms = _clock.wall_ms()
    tokens = sorted(call.node.cluster.meta.tokens.values(), key=lambda token: (token.created_ms, token.token))
    return json_answer(TokenList([_facts(token) for token in tokens if not token.is_void(now_ms)]))


async def revoke_token(call: Call) -> Answer:
    """Let nobody in by it any more."""
    token = call.get(TOKEN_HASH)
    if token not in call.node.cluster.meta.tokens:
        raise NotFoundError("there is no such token; GET /api/tokens lists them")
    await call.node.cluster.operate(RevokeToken(token))
    return json_answer(TokenRevoked(token))


def _facts(token: Token) -> TokenFacts:
    return TokenFacts(token.token, token.reusable, token.expires_ms, token.note, token.created_ms)
