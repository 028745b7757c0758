"""Grants in the store: codes, families of refresh tokens, and what was revoked. Each method is one atomic decision.

The answer to a refresh is made before it is decided and kept with the decision, sealed with the token it answers. So of
any number of concurrent refreshes one is kept and all get its bytes, and who lost the answer asks again for the same.
`grants_script.py` holds the decisions, `opaque.py` what tokens look like.
"""

import logging
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import msgspec
from redis.asyncio import Redis

from noctule.base.errors import ConfigError, StorageError
from noctule.kits.jwt.claims import LOG_START, position_number
from noctule.kits.oauth2 import grants_script as scripts
from noctule.kits.oauth2.errors import GRANT_IS_INVALID, InvalidGrantError, UnauthorizedClientError
from noctule.kits.oauth2.messages import AuthorizationRequest
from noctule.kits.oauth2.opaque import digest_of, new_code, parse_opaque, shard_of
from noctule.kits.scripts import Script
from noctule.kits.store import RETRY_BUDGET_S, connect, retrying_idempotent

CODE_WATCH_S = 600
"""How long a used code is remembered, so that a second use is noticed."""
FAMILIES_MAX = 100
"""Sign-ins of one subject at once; one more ends the oldest."""
LOG_ENTRIES_MAX = 50_000
"""Revocations of one shard within the time that they are kept; see `grants_script.py` for what happens beyond."""
FOLLOW_ENTRIES_MAX = 1_000
"""Of one reading of the log."""
NAME_CHARACTERS_MAX = 200
SHARDS_MAX = 256

Revocation = Literal["jti", "subject", "all"]

log = logging.getLogger("noctule.kits.oauth2")


class GrantMeta(msgspec.Struct, frozen=True):
    """What stays the same in a family."""

    subject: str
    scopes: tuple[str, ...]
    audience: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class Issue:
    """What a new access token has to say."""

    meta: GrantMeta
    client_id: str
    family: str
    """Empty for client credentials."""
    now_ms: int
    """By the store's clock."""
    position: str
    """Of the log: what is revoked behind it does not concern earlier tokens of the subject only."""


Answer = Callable[[Issue, str | None], bytes]
"""Makes the whole answer for an issue and the text of the refresh token that goes with it, if any."""


@dataclass(frozen=True, slots=True)
class Device:
    """One sign-in, as its user may see it."""

    id: str
    client_id: str
    name: str
    scopes: tuple[str, ...]
    created_ms: int
    used_ms: int
    """When tokens were last refreshed."""
    address: str


@dataclass(frozen=True, slots=True)
class RefreshPicture:
    """What a present refresh token stands for, for introspection."""

    client_id: str
    meta: GrantMeta
    created_ms: int
    expires_ms: int


@dataclass(frozen=True, slots=True)
class GrantTimes:
    """How long things live. Raises `ConfigError`."""

    code_s: int = 60
    """RFC 6749 4.1.2 asks for 10 minutes at most."""
    access_s: int = 600
    """Of an access token: in mode ``jwt`` also how long a revoked one goes on."""
    refresh_idle_s: int = 14 * 24 * 3600
    """A family that is not refreshed for so long ends."""
    refresh_absolute_s: int = 90 * 24 * 3600
    """And in any case after this."""
    grace_s: int = 30
    """The old token gets the same answer again for so long after its successor was made."""
    margin_s: int = 60
    """Revocations are kept for so much longer than access tokens live: how far the clocks of instances may be apart."""

    def __post_init__(self) -> None:
        problems = []
        if not 1 <= self.code_s <= min(600, self.keep_s):
            problems.append("code_s must be 1 to 600, and at most access_s and margin_s together")
        if not 10 <= self.access_s <= 24 * 3600:
            problems.append("access_s must be 10 to 86400")
        if not self.access_s < self.refresh_idle_s <= self.refresh_absolute_s:
            problems.append("access_s, refresh_idle_s and refresh_absolute_s must rise in this order")
        if not RETRY_BUDGET_S < self.grace_s <= 300:
            problems.append(
                f"grace_s must be over {RETRY_BUDGET_S:g}, in which the store is asked again, and up to 300"
            )
        if self.margin_s < 10:
            problems.append("margin_s must be 10 or more")
        if problems:
            raise ConfigError("OAuth times: " + "; ".join(problems))

    @property
    def keep_s(self) -> int:
        """How long a revocation is kept."""
        return self.access_s + self.margin_s


class Grants:
    """All that the store has of grants. `store` as everywhere; a client that was handed in stays the caller's to close.

    `shards` spreads subjects over the store; it must be the same on all instances for as long as there are grants.
    """

    def __init__(
        self,
        store: Redis | str | None = None,
        *,
        times: GrantTimes = GrantTimes(),
        prefix: str = "oauth",
        shards: int = 4,
        log_entries_max: int = LOG_ENTRIES_MAX,
    ) -> None:
        if not 1 <= shards <= SHARDS_MAX:
            raise ConfigError(f"OAuth grants: shards is {shards}; it must be 1 to {SHARDS_MAX}")
        if set(prefix) & set("{}") or not prefix:
            raise ConfigError("OAuth grants: prefix must hold no braces and not be empty")
        self._owns_store = store is None or isinstance(store, str)
        if store is None or isinstance(store, str):
            store = connect(store)
        if store.get_encoder().decode_responses:  # type: ignore[no-untyped-call]
            raise ConfigError("the store client handed to Grants must give bytes: decode_responses=False")
        self.store = store
        self.times = times
        self.prefix = prefix
        self.shards = shards
        self._log_entries_max = log_entries_max

    def shard(self, subject: str) -> int:
        """Where everything of a subject is."""
        return shard_of(subject, self.shards)

    def log_key(self, shard: int) -> str:
        """The stream of a shard's revocations."""
        return f"{self._base(shard)}log"

    # Codes ------------------------------------------------------------------------------------------------------------

    async def save_code(
        self, request: AuthorizationRequest, subject: str, scopes: Sequence[str], name: str = ""
    ) -> str:
        """Keep what the user granted; give the code for it. Raises `OutcomeUnknownError`."""
        code = new_code(self.shard(subject))
        meta = GrantMeta(subject, tuple(scopes), request.audience, name[:NAME_CHARACTERS_MAX])
        await self._run(
            scripts.SAVE_CODE,
            code.shard,
            code.family,
            self.times.code_s * 1000,
            code.digest,
            request.client.id,
            request.redirect_uri,
            request.challenge,
            digest_of("subject", subject),
            msgspec.json.encode(meta),
        )
        return code.text

    async def exchange(
        self,
        code_text: str,
        client_id: str,
        redirect_uri: str,
        challenge: str,
        answer: Answer,
        *,
        refreshes: bool,
        address: str = "",
    ) -> bytes:
        """Use a code; give the answer. Raises `InvalidGrantError`, after which a code that was used before has taken
        everything with it that it gave, and `OutcomeUnknownError`."""
        code = parse_opaque(code_text, "nac", self.shards)
        if code is None:
            raise InvalidGrantError(GRANT_IS_INVALID)
        asked = (code.family, code.digest, client_id, redirect_uri, challenge)
        issue = self._issue(await self._run(scripts.EXCHANGE, code.shard, *asked, ""), client_id, code.family)
        refresh = code.successor() if refreshes else None
        idle_s = self.times.refresh_idle_s if refreshes else self.times.keep_s
        absolute_s = self.times.refresh_absolute_s if refreshes else self.times.keep_s
        done = await self._run(
            scripts.EXCHANGE,
            code.shard,
            *asked,
            secrets.token_hex(16),
            refresh.digest if refresh else "-",
            idle_s * 1000,
            absolute_s * 1000,
            FAMILIES_MAX,
            CODE_WATCH_S * 1000,
            address,
        )
        if done[0] != b"done":
            raise self._refused(done[0], client_id, code.family)
        return answer(issue, refresh.text if refresh else None)

    # Refresh tokens ---------------------------------------------------------------------------------------------------

    async def rotate(self, refresh_text: str, client_id: str, answer: Answer, address: str = "") -> bytes:
        """The answer to a refresh: the same bytes for all who ask with this token within the grace time.

        Raises `InvalidGrantError`, after which a token that was replayed has ended its family everywhere, and
        `OutcomeUnknownError`, after which asking again gives the answer if there is one.
        """
        token = parse_opaque(refresh_text, "nrt", self.shards)
        if token is None:
            raise InvalidGrantError(GRANT_IS_INVALID)
        asked = (token.family, token.digest, client_id, self.times.grace_s * 1000)
        looked = await self._run(scripts.ROTATE, token.shard, *asked, "", "", 0, "")
        if looked[0] == b"done":
            return token.open(looked[1])
        issue = self._issue(looked, client_id, token.family)
        successor = token.successor()
        sealed = token.seal(answer(issue, successor.text))
        idle_ms = self.times.refresh_idle_s * 1000
        done = await self._run(scripts.ROTATE, token.shard, *asked, successor.digest, sealed, idle_ms, address)
        if done[0] != b"done":
            raise self._refused(done[0], client_id, token.family)
        return token.open(done[1])

    async def refresh_picture(self, refresh_text: str) -> RefreshPicture | None:
        """What a refresh token stands for; None unless it is the present one of a living family."""
        token = parse_opaque(refresh_text, "nrt", self.shards)
        if token is None:
            return None
        found = await self._run(scripts.FAMILY, token.shard, token.family, token.digest, writes=False)
        if not found:
            return None
        client_id, meta, begun, ends = found
        return RefreshPicture(client_id.decode(), _meta(meta), int(begun), int(ends))

    async def issue_directly(self, meta: GrantMeta, client_id: str) -> Issue:
        """What an access token without a family has to say."""
        now_ms, position = await self._run(scripts.LOOK, self.shard(meta.subject), writes=False)
        return Issue(meta, client_id, "", int(now_ms), position.decode())

    # Revocation -------------------------------------------------------------------------------------------------------

    async def revoke_refresh(self, refresh_text: str, client_id: str) -> bool:
        """End the family of a refresh token; whether it was alive. Raises `UnauthorizedClientError` for another's."""
        token = parse_opaque(refresh_text, "nrt", self.shards)
        if token is None:
            return False
        count = await self._run(scripts.REVOKE, token.shard, "family", token.family, client_id)
        if count < 0:
            raise UnauthorizedClientError("the token was issued to another client")
        return bool(count)

    async def revoke_family(self, subject: str, family: str) -> bool:
        """End one sign-in of a subject, on every instance; whether it was alive and its own."""
        owner = digest_of("subject", subject)
        return bool(await self._run(scripts.REVOKE, self.shard(subject), "device", family, owner))

    async def revoke_access(self, subject: str, jti: str) -> None:
        """Refuse one access token."""
        await self._run(scripts.REVOKE, self.shard(subject), "jti", jti, "")

    async def revoke_subject(self, subject: str) -> int:
        """Sign a subject out everywhere: all families end, all access tokens issued before are refused. Tells how many
        families that were."""
        count = await self._run(scripts.REVOKE, self.shard(subject), "subject", digest_of("subject", subject), "")
        return int(count)

    async def revoke_all(self) -> None:
        """End every grant there is, as after a theft of keys. Shard by shard; when it raises, do it again."""
        for shard in range(self.shards):
            await self._run(scripts.REVOKE, shard, "all", "", "")

    async def devices(self, subject: str) -> list[Device]:
        """Where a subject is signed in, the newest first; at most `FAMILIES_MAX`."""
        found = await self._run(scripts.DEVICES, self.shard(subject), digest_of("subject", subject), writes=False)
        return [_device(*each) for each in found]

    async def is_alive(self, *, subject: str, family: str, jti: str, position: str) -> bool:
        """Whether an access token is not revoked, as the store knows it at this moment. Raises `UnavailableError`.

        Plain reads, which cost a store with a log less than a script; none of them can become untrue again.
        """
        base = self._base(self.shard(subject))

        async def ask() -> tuple[bool, list[bytes | None], bool]:
            async with self.store.pipeline(transaction=False) as pipeline:
                pipeline.exists(f"{base}family:{family}")
                pipeline.exists(f"{base}dead:jti:{jti}")
                for name in (f"dead:subject:{digest_of('subject', subject)}", "dead:all", "floor"):
                    pipeline.get(base + name)
                is_kept, is_dead, *ends = await pipeline.execute()
            return bool(is_kept) or not family, ends, bool(is_dead)

        is_kept, ends, is_dead = await retrying_idempotent(ask, writes=False)
        issued = position_number(position)
        return is_kept and not is_dead and all(end is None or position_number(end.decode()) <= issued for end in ends)

    async def follow(self, shard: int, cursor: str) -> tuple[bool, list[tuple[str, str, str]]]:
        """Whether the cursor is not known any more, and the entries behind it (or all): position, kind, id."""
        read = await self._read_log(shard, cursor)
        if cursor == LOG_START:
            return False, read[:FOLLOW_ENTRIES_MAX]
        if read and read[0][0] == cursor:
            return False, read[1:]
        # Entries have expired, or a server took over that had heard of less.
        return True, (await self._read_log(shard, LOG_START))[:FOLLOW_ENTRIES_MAX]

    async def aclose(self) -> None:
        """Close the store's client if this object made it."""
        if self._owns_store:
            await self.store.aclose()

    # Inside -----------------------------------------------------------------------------------------------------------

    async def _read_log(self, shard: int, start: str) -> list[tuple[str, str, str]]:
        """From a position on, that one included; one more than `FOLLOW_ENTRIES_MAX` at most."""
        key = self.log_key(shard)
        found = await retrying_idempotent(
            lambda: cast("Awaitable[Any]", self.store.xrange(key, start, "+", FOLLOW_ENTRIES_MAX + 1)), writes=False
        )
        return [(at.decode(), entry[b"kind"].decode(), entry[b"id"].decode()) for at, entry in found]

    async def _run(self, script: Script, shard: int, *arguments: str | bytes | int, writes: bool = True) -> Any:
        # Each may be asked again: what it wrote, it finds.
        key = self.log_key(shard)
        words = (self._base(shard), self.times.keep_s * 1000, self._log_entries_max, *arguments)

        return await retrying_idempotent(lambda: script.run(self.store, [key], words), writes=writes)

    def _base(self, shard: int) -> str:
        return f"{{{self.prefix}:{shard}}}"

    def _issue(self, reply: list[Any], client_id: str, family: str) -> Issue:
        if reply[0] != b"live":
            raise self._refused(reply[0], client_id, family)
        _, now_ms, position, meta = reply
        return Issue(_meta(meta), client_id, family, int(now_ms), position.decode())

    def _refused(self, reason: bytes, client_id: str, family: str) -> InvalidGrantError:
        if reason == b"replayed":
            log.warning("grant_replayed", extra={"client": client_id, "family": family})
        return InvalidGrantError(GRANT_IS_INVALID)


def _meta(encoded: bytes) -> GrantMeta:
    try:
        return msgspec.json.decode(encoded, type=GrantMeta)
    except msgspec.DecodeError as error:
        raise StorageError("a grant in the store is damaged") from error


def _device(family: bytes, client: bytes, encoded: bytes, begun: bytes, used: bytes, address: bytes) -> Device:
    meta = _meta(encoded)
    return Device(family.decode(), client.decode(), meta.name, meta.scopes, int(begun), int(used), address.decode())
