"""The authorization server on a real Redis: what each grant gives, what a second use takes away, who hears of it."""

import asyncio
import base64
import json
import logging
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import httpx
import jwt as pyjwt
import pytest
from joserfc import jws
from joserfc.jwk import KeySet
from oauth_instances import AUDIENCE, ISSUER, OTHER_AUDIENCE, REDIRECT, SCOPES, SECRET, Instance, instances
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from noctule.base.errors import ConfigError, UnavailableError
from noctule.kits.jwt.app_keys import AppKeys
from noctule.kits.jwt.key_ring import _SAVE, SigningKeyRing
from noctule.kits.jwt.ring_state import RingPolicy
from noctule.kits.oauth2 import grants as grants_module
from noctule.kits.oauth2.client_store import ClientStore
from noctule.kits.oauth2.clients import Client, new_client_secret
from noctule.kits.oauth2.grants import Grants, GrantTimes
from noctule.kits.oauth2.revocations import Revocations
from noctule.kits.oauth_client import OutsideProvider, SignInError
from noctule.kits.sessions import Sessions
from noctule.kits.store import retrying_idempotent

if TYPE_CHECKING:
    from engines import RedisServer

pytest_plugins = ("engines",)
pytestmark = [
    pytest.mark.integration,
    pytest.mark.engine("redis-server"),
    pytest.mark.usefixtures("clients_leave_connections"),
]


@pytest.fixture
async def three(redis_server: "RedisServer") -> AsyncIterator[list[Instance]]:
    """Three instances that follow the log."""
    async with instances(redis_server.url) as made:
        yield list(made)


async def until_refused(instance: Instance, access_token: str, deadline_s: float = 5.0) -> None:
    async with asyncio.timeout(deadline_s):
        while await instance.who(access_token) != 401:
            await asyncio.sleep(0.005)


# Codes ----------------------------------------------------------------------------------------------------------------


async def test_a_code_of_one_instance_is_exchanged_at_another(three: list[Instance]) -> None:
    code, verifier = await three[0].code()
    answer = await three[1].exchange(code, verifier)
    assert answer.status == 200
    assert answer.body["expires_in"] == 600
    assert answer.body["scope"] == " ".join(SCOPES)
    assert answer.headers["cache-control"] == "no-store"
    assert [await each.who(answer.body["access_token"]) for each in three] == [200, 200, 200]
    assert await three[0].who(None) == 401
    assert await three[0].who(None, "/health") == 200
    assert await three[0].who("nonsense", "/health") == 401


async def test_a_second_use_of_a_code_ends_everywhere_what_the_first_gave(
    three: list[Instance], caplog: pytest.LogCaptureFixture
) -> None:
    code, verifier = await three[0].code()
    given = (await three[0].exchange(code, verifier)).body
    assert (await three[1].exchange(code, verifier)).body["error"] == "invalid_grant"
    for each in three:
        await until_refused(each, given["access_token"])
    assert (await three[2].refresh(given["refresh_token"])).body["error"] == "invalid_grant"
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == ["grant_replayed"]


async def test_of_two_uses_of_a_code_at_once_one_is_answered(three: list[Instance]) -> None:
    code, verifier = await three[0].code()
    answers = await asyncio.gather(*(three[n % 3].exchange(code, verifier) for n in range(12)))
    assert sum(each.status == 200 for each in answers) <= 1
    given = [each.body for each in answers if each.status == 200]
    assert all([(await three[0].refresh(each["refresh_token"])).status == 400 for each in given])


@pytest.mark.parametrize("wrong", ["verifier", "client", "redirect"])
async def test_a_stolen_code_is_nothing_without_the_rest(three: list[Instance], wrong: str) -> None:
    code, verifier = await three[0].code()
    if wrong == "verifier":
        stolen = await three[1].exchange(code, "x" * 43)
    elif wrong == "client":
        stolen = await three[1].exchange(code, verifier, "web")
    else:
        form = {"grant_type": "authorization_code", "code": code, "client_id": "app", "code_verifier": verifier}
        stolen = await three[1].post("/token", {**form, "redirect_uri": f"{REDIRECT}/"})
    assert (stolen.status, stolen.body["error"]) == (400, "invalid_grant")
    assert (await three[0].exchange(code, verifier)).status == 200, "whose it is can still use it"


async def test_who_was_signed_out_everywhere_is_not_signed_in_by_a_code_from_before(three: list[Instance]) -> None:
    code, verifier = await three[0].code()
    await three[1].grants.revoke_subject("ada")
    assert (await three[0].exchange(code, verifier)).body["error"] == "invalid_grant"
    assert await three[0].sign_in()


# Refresh tokens -------------------------------------------------------------------------------------------------------


async def test_concurrent_refreshes_get_one_successor_byte_for_byte(three: list[Instance]) -> None:
    given = await three[0].sign_in()
    await asyncio.gather(*(each.open_connections() for each in three))
    answers = await asyncio.gather(*(three[n % 3].refresh(given["refresh_token"]) for n in range(60)))
    assert {each.status for each in answers} == {200}
    assert len({each.raw for each in answers}) == 1
    again = await three[0].refresh(given["refresh_token"])
    assert again.raw == answers[0].raw, "who lost the answer asks again"
    assert again.body["refresh_token"] != given["refresh_token"]
    assert (await three[1].refresh(again.body["refresh_token"])).status == 200


async def test_a_token_from_before_the_last_one_ends_the_family_on_all_instances(three: list[Instance]) -> None:
    first = await three[0].sign_in()
    second = (await three[0].refresh(first["refresh_token"])).body
    third = (await three[1].refresh(second["refresh_token"])).body
    other = await three[0].sign_in()
    assert (await three[2].refresh(first["refresh_token"])).body["error"] == "invalid_grant"
    for each in three:
        await until_refused(each, third["access_token"])
        await until_refused(each, second["access_token"])
        assert (await each.refresh(third["refresh_token"])).status == 400
        assert await each.who(other["access_token"]) == 200, "another sign-in of the same user goes on"


async def test_a_refresh_gives_no_more_than_was_granted_and_only_to_its_client(three: list[Instance]) -> None:
    given = await three[0].sign_in()
    assert (await three[0].refresh(given["refresh_token"], scope="admin")).body["error"] == "invalid_scope"
    form = {"grant_type": "refresh_token", "refresh_token": given["refresh_token"]}
    assert (await three[0].post("/token", form, ("web", SECRET))).body["error"] == "invalid_grant"
    narrowed = await three[0].refresh(given["refresh_token"], scope="posts:read")
    assert narrowed.body["scope"] == "posts:read"
    assert (await three[0].refresh(narrowed.body["refresh_token"])).body["scope"] == " ".join(SCOPES)


async def test_a_code_ends_after_a_minute(three: list[Instance]) -> None:
    code, verifier = await three[0].code()
    store = three[0].store
    (key,) = [key async for key in store.scan_iter(match=f"{{oauth:{three[0].grants.shard('ada')}}}code:*")]
    assert 50_000 < await store.pttl(key) <= 60_000
    await store.pexpire(key, 1)
    await asyncio.sleep(0.01)
    assert (await three[1].exchange(code, verifier)).body["error"] == "invalid_grant"
    with pytest.raises(ConfigError, match="code_s must be 1 to 600"):
        GrantTimes(code_s=601)


async def test_a_family_expires_in_the_store(redis_server: "RedisServer") -> None:
    times = GrantTimes(access_s=10, code_s=10, refresh_idle_s=11, refresh_absolute_s=12)
    async with instances(redis_server.url, 1, times=times) as (one,):
        given = await one.sign_in()
        family = f"{{oauth:{one.grants.shard('ada')}}}family:*"
        (key,) = [key async for key in one.store.scan_iter(match=family)]
        assert 10_000 < await one.store.pttl(key) <= 11_000
        await asyncio.sleep(1.5)
        assert (await one.refresh(given["refresh_token"])).status == 200
        assert await one.store.pttl(key) <= 10_500, "no refresh leads beyond the absolute end"
        left = [key async for key in one.store.scan_iter() if await one.store.pttl(key) == -1]
        assert all(key.endswith((b"position", b"ring")) for key in left), "nothing else stays"


# Revocation -----------------------------------------------------------------------------------------------------------


async def test_an_access_token_is_revoked_alone_and_a_refresh_token_with_all_of_its_family(
    three: list[Instance],
) -> None:
    given, other = await three[0].sign_in(), await three[0].sign_in()
    assert (await three[1].post("/revoke", {"token": given["access_token"], "client_id": "app"})).status == 200
    await until_refused(three[2], given["access_token"])
    renewed = (await three[0].refresh(given["refresh_token"])).body
    assert await three[2].who(renewed["access_token"]) == 200
    for foreign in (renewed["refresh_token"], other["access_token"]):
        refused = await three[0].post("/revoke", {"token": foreign}, ("web", SECRET))
        assert (refused.status, refused.body["error"]) == (400, "unauthorized_client")
    form = {"token": given["refresh_token"], "client_id": "app", "token_type_hint": "access_token"}
    assert (await three[0].post("/revoke", form)).status == 200
    await until_refused(three[1], renewed["access_token"])
    assert await three[1].who(other["access_token"]) == 200
    assert (await three[0].post("/revoke", {"token": "nonsense", "client_id": "app"})).status == 200


async def test_a_token_for_another_resource_is_refused_here_and_revoked_all_the_same(three: list[Instance]) -> None:
    code, verifier = await three[0].code(resource=OTHER_AUDIENCE)
    given = (await three[0].exchange(code, verifier)).body["access_token"]
    assert await three[0].who(given) == 401
    told = await three[0].post("/introspect", {"token": given}, ("web", SECRET))
    assert (told.body["active"], told.body["aud"]) == (True, [OTHER_AUDIENCE])
    assert (await three[1].post("/revoke", {"token": given, "client_id": "app"})).status == 200
    assert (await three[0].post("/introspect", {"token": given}, ("web", SECRET))).body == {"active": False}


async def test_devices_are_listed_and_signed_out_one_by_one_and_all(three: list[Instance]) -> None:
    phone, laptop = await three[0].sign_in(), await three[1].sign_in("web")
    stranger = await three[0].sign_in(subject="bob")
    renewed = (await three[2].refresh(phone["refresh_token"])).body
    devices = await three[2].grants.devices("ada")
    assert [each.client_id for each in devices] == ["web", "app"]
    assert devices[1].used_ms > devices[1].created_ms
    assert (devices[0].name, devices[0].address) == ("a test", "192.0.2.7")
    assert not await three[0].grants.revoke_family("bob", devices[0].id), "not his"
    assert await three[0].grants.revoke_family("ada", devices[0].id)
    await until_refused(three[1], laptop["access_token"])
    assert await three[1].who(renewed["access_token"]) == 200
    assert await three[1].grants.revoke_subject("ada") == 1
    await until_refused(three[2], renewed["access_token"])
    assert await three[2].grants.devices("ada") == []
    assert await three[2].who(stranger["access_token"]) == 200
    assert await three[0].who((await three[0].sign_in())["access_token"]) == 200, "and may sign in again at once"


async def test_everything_can_be_revoked(three: list[Instance]) -> None:
    ada, bob = await three[0].sign_in(), await three[1].sign_in(subject="bob")
    await three[2].grants.revoke_all()
    for given in (ada, bob):
        await until_refused(three[0], given["access_token"])
        assert (await three[1].refresh(given["refresh_token"])).body["error"] == "invalid_grant"
    later = await three[0].sign_in()
    assert await three[0].who((await three[1].refresh(later["refresh_token"])).body["access_token"]) == 200


async def test_one_sign_in_too_many_ends_the_oldest(
    redis_server: "RedisServer", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grants_module, "FAMILIES_MAX", 2)
    async with instances(redis_server.url, 1) as (one,):
        given = [await one.sign_in() for _ in range(3)]
        await until_refused(one, given[0]["access_token"])
        assert [await one.who(each["access_token"]) for each in given[1:]] == [200, 200]
        assert len(await one.grants.devices("ada")) == 2


async def test_a_full_log_refuses_all_older_access_tokens_and_lets_nobody_slip_through(
    redis_server: "RedisServer",
) -> None:
    async with instances(redis_server.url, 1) as (one,):
        small = Grants(one.store, log_entries_max=5)
        revoked, kept = await one.sign_in(), await one.sign_in()
        claims = pyjwt.decode(revoked["access_token"], options={"verify_signature": False})
        await small.revoke_access("ada", claims["jti"])
        for number in range(6):
            await small.revoke_access("ada", f"other{number}")
        # Another instance begins only now, and finds no entry of that token in the log.
        async with instances(redis_server.url, 1) as (late,):
            assert await late.who(revoked["access_token"]) == 401
            assert await late.who(kept["access_token"]) == 401
            renewed = await late.refresh(kept["refresh_token"])
            assert await late.who(renewed.body["access_token"]) == 200
        assert await one.store.xlen(one.grants.log_key(one.grants.shard("ada"))) <= 6


async def test_introspection_is_for_clients_with_a_secret_and_knows_at_once(three: list[Instance]) -> None:
    given = await three[0].sign_in()
    for token in (given["access_token"], given["refresh_token"]):
        told = await three[1].post("/introspect", {"token": token}, ("web", SECRET))
        assert (told.body["active"], told.body["sub"], told.body["client_id"]) == (True, "ada", "app")
        assert told.body["exp"] > told.body["iat"]
    await three[0].grants.revoke_subject("ada")
    for token in (given["access_token"], given["refresh_token"], "nonsense"):
        assert (await three[1].post("/introspect", {"token": token}, ("web", SECRET))).body == {"active": False}
    refused = await three[1].post("/introspect", {"token": given["access_token"], "client_id": "app"})
    assert (refused.status, refused.body["error"]) == (401, "invalid_client")


@pytest.mark.parametrize("mode", ["jwt", "hybrid", "server"])
async def test_how_long_a_revoked_token_goes_on_in_each_mode(redis_server: "RedisServer", mode: Any) -> None:
    """K-3: at once, as soon as the log has told, or until it expires."""
    times = GrantTimes(access_s=10, code_s=10)
    async with instances(redis_server.url, 2, mode=mode, times=times) as (one, other):
        given = await one.sign_in()
        await one.grants.revoke_subject("ada")
        if mode == "server":
            assert await other.who(given["access_token"]) == 401
        elif mode == "hybrid":
            await until_refused(other, given["access_token"], 2.0)
        else:
            await asyncio.sleep(1.5)  # Longer than the other modes need.
            assert await other.who(given["access_token"]) == 200
        assert (await one.refresh(given["refresh_token"])).status == 400


@pytest.mark.parametrize("mode", ["hybrid", "server"])
async def test_every_kind_of_revocation_is_known_in_both_modes(redis_server: "RedisServer", mode: Any) -> None:
    """Tokens of clients have no family, so that only what is written of their subject tells."""
    async with instances(redis_server.url, 2, mode=mode) as (one, other):

        async def own_token() -> str:
            form = {"grant_type": "client_credentials", "client_id": "job", "client_secret": SECRET}
            return str((await one.post("/token", form)).body["access_token"])

        given = await one.sign_in()
        renewed = (await one.refresh(given["refresh_token"])).body
        claims = pyjwt.decode(given["access_token"], options={"verify_signature": False})
        await one.grants.revoke_access("ada", claims["jti"])
        await until_refused(other, given["access_token"])
        assert await other.who(renewed["access_token"]) == 200
        for revoke in (lambda: one.grants.revoke_subject("job"), one.grants.revoke_all):
            token = await own_token()
            assert await other.who(token) == 200
            await revoke()
            await until_refused(other, token)
            assert await other.who(await own_token()) == 200, "what is issued later is good"
        await until_refused(other, renewed["access_token"])


async def test_an_instance_that_is_cut_off_refuses_after_the_bound_and_hears_the_rest_later(
    redis_server: "RedisServer", caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="noctule.kits.oauth2")
    async with instances(redis_server.url, 1, staleness_s_max=2.0) as (one,):
        given = await one.sign_in()
        assert not one.revocations.describe().is_stale
        redis_server.pause()
        assert await one.who(given["access_token"]) == 200
        async with asyncio.timeout(5):
            while await one.who(given["access_token"]) == 200:
                await asyncio.sleep(0.05)
        picture = one.revocations.describe()
        assert (picture.is_stale, picture.refused_stale) == (True, 1)
        assert 2.0 <= picture.staleness_s < 4.0
        with pytest.raises(UnavailableError):
            await Revocations(one.grants).wait_fresh(0.05)
        assert await one.who(given["access_token"]) == 503
        redis_server.kill()
        redis_server.start()
        async with asyncio.timeout(10):
            while await one.who(given["access_token"]) == 503:
                await asyncio.sleep(0.05)
    said = [record.message for record in caplog.records]
    assert [each for each in said if each.startswith("revocations_") and "read" not in each] == [
        "revocations_stale",
        "revocations_fresh",
    ]


async def test_a_log_that_begins_anew_is_read_anew_and_what_was_known_stays(redis_server: "RedisServer") -> None:
    """A replica took over that had not heard of the last revocations: the cursor is not in its log."""
    async with instances(redis_server.url, 1) as (one,):
        lost, later = await one.sign_in(), await one.sign_in()
        devices = {each.id for each in await one.grants.devices("ada")}
        first = pyjwt.decode(lost["access_token"], options={"verify_signature": False})["fid"]
        await one.grants.revoke_family("ada", first)
        await until_refused(one, lost["access_token"])
        key = one.grants.log_key(one.grants.shard("ada"))
        await one.store.delete(key)
        (second,) = devices - {first}
        # By a server whose clock is behind, so that the cursor is past it.
        await one.store.xadd(key, {"kind": "family", "id": second}, id="1-1")
        await until_refused(one, later["access_token"])
        assert await one.who(lost["access_token"]) == 401


# Keys -----------------------------------------------------------------------------------------------------------------


async def test_others_verify_with_the_key_set_alone(three: list[Instance]) -> None:
    given = await three[0].sign_in()
    answer = await three[1].http.get("/jwks.json")
    assert "max-age" in answer.headers["cache-control"]
    assert all("d" not in key for key in answer.json()["keys"])
    (key,) = pyjwt.PyJWKSet.from_dict(answer.json()).keys
    claims = pyjwt.decode(given["access_token"], key.key, algorithms=["EdDSA"], audience=AUDIENCE, issuer=ISSUER)
    assert (claims["sub"], claims["client_id"]) == ("ada", "app")
    assert pyjwt.get_unverified_header(given["access_token"])["typ"] == "at+jwt"
    with pytest.warns(match="RFC 9864"):
        read = jws.deserialize_compact(given["access_token"], KeySet.import_key_set(answer.json()), ["EdDSA"])
    assert json.loads(read.payload or b"")["jti"] == claims["jti"]
    metadata = (await three[1].http.get("/.well-known/oauth-authorization-server")).json()
    assert metadata["issuer"] == ISSUER
    assert metadata["jwks_uri"] == f"{ISSUER}/jwks.json"
    assert metadata["code_challenge_methods_supported"] == ["S256"]


async def test_a_ring_goes_over_to_rsa_and_tokens_of_both_kinds_are_believed(redis_server: "RedisServer") -> None:
    async with instances(redis_server.url, 1) as (one,):
        before = (await one.sign_in())["access_token"]
        policy = RingPolicy(alg="RS256", publish_ahead_s=1, refresh_s=0.2)
        async with instances(redis_server.url, 1, policy=policy) as (other,):
            async with asyncio.timeout(5):
                while pyjwt.get_unverified_header((await other.sign_in())["access_token"])["alg"] != "RS256":
                    await asyncio.sleep(0.1)
            token = (await other.sign_in())["access_token"]
            assert [await each.who(token) for each in (one, other)] == [200, 200]
            assert [await each.who(before) for each in (one, other)] == [200, 200]
            sets = pyjwt.PyJWKSet.from_dict((await other.http.get("/jwks.json")).json())
            key = sets[pyjwt.get_unverified_header(token)["kid"]]
            assert pyjwt.decode(token, key.key, algorithms=["RS256"], audience=AUDIENCE, issuer=ISSUER)["sub"] == "ada"


async def test_a_token_that_was_touched_is_not_believed(three: list[Instance]) -> None:
    token = (await three[0].sign_in())["access_token"]
    head, body, signature = token.split(".")

    def encoded(value: dict[str, Any]) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    def decoded(text: str) -> dict[str, Any]:
        return json.loads(base64.urlsafe_b64decode(text + "=="))  # type: ignore[no-any-return]

    none = encoded({**decoded(head), "alg": "none"})
    public = (await three[0].ring.jwks())["keys"][0]
    confused = pyjwt.encode(decoded(body), public["x"].ljust(32, "x"), "HS256", {"kid": public["kid"], "typ": "at+jwt"})
    plain_type = encoded({**decoded(head), "typ": "JWT"})
    tampered = encoded({**decoded(body), "sub": "root"})
    deep = base64.urlsafe_b64encode(b"[" * 1500).decode()
    for bad in (
        f"{none}.{body}.", f"{none}.{body}.{signature}", confused, f"{plain_type}.{body}.{signature}",
        f"{head}.{tampered}.{signature}", f"{head}.{body}.{signature[:-4]}AAAA", f"{head}.{body}", "a.b.c",
        f"{deep}.{body}.{signature}",
    ):  # fmt: skip
        assert await three[0].who(bad) == 401, bad
    assert await three[0].who(token) == 200


async def test_keys_turn_under_traffic_and_nobody_is_refused(redis_server: "RedisServer") -> None:
    policy = RingPolicy(rotate_every_s=2, publish_ahead_s=1, keep_s=8, refresh_s=0.3)
    async with instances(redis_server.url, 3, policy=policy) as made:
        held: list[str] = []
        kids = set()
        refresh_token = (await made[0].sign_in())["refresh_token"]
        deadline = asyncio.get_running_loop().time() + 5.0
        while asyncio.get_running_loop().time() < deadline:
            for number, each in enumerate(made):
                answer = await each.refresh(refresh_token)
                assert answer.status == 200
                refresh_token = answer.body["refresh_token"]
                held = [*held[-10:], answer.body["access_token"]]
                kids.add(pyjwt.get_unverified_header(held[-1])["kid"])
                for token in held:
                    assert await made[(number + 1) % 3].who(token) == 200
            await asyncio.sleep(0.02)
        assert len(kids) >= 3
        states = {each.state for each in made[0].ring.describe()}
        assert "signing" in states
        # One ring for all, whoever turned it.
        sets = [{key["kid"] for key in (await each.ring.jwks())["keys"]} for each in made]
        assert set.intersection(*sets)


async def test_a_store_that_is_away_does_not_hold_up_checks_by_a_copy_of_the_ring(redis_server: "RedisServer") -> None:
    async with instances(redis_server.url, 1, mode="jwt", policy=RingPolicy(refresh_s=0.2)) as (one,):
        token = (await one.sign_in())["access_token"]
        redis_server.pause()
        await asyncio.sleep(0.3)  # Until the copy is older than it should be.
        begun = asyncio.get_running_loop().time()
        assert set(await asyncio.gather(*(one.who(token) for _ in range(20)))) == {200}
        assert asyncio.get_running_loop().time() - begun < 4.0, "they waited together, and not one after the other"
        begun = asyncio.get_running_loop().time()
        assert await one.who(token) == 200
        assert asyncio.get_running_loop().time() - begun < 1.0


async def test_the_ring_is_made_once_changed_by_the_newest_lease_only_and_withdrawn_from(
    redis_server: "RedisServer",
) -> None:
    secrets = ["first secret of the app, 32 characters", "second secret of the app, 32 characters"]
    rings = [SigningKeyRing(redis_server.url, AppKeys(secrets[:1])) for _ in range(5)]
    try:
        made = await asyncio.gather(*(ring.signing_key() for ring in rings))
        assert len({kid for kid, _, _ in made}) == 1
        # A holder that slept through its lease.
        late, store = rings[0], rings[0]._store
        old = await late._read()
        lease = await late._locks.acquire("keys")
        assert lease is not None
        with pytest.raises(UnavailableError, match="another instance"):
            await rings[1].rotate()
        await late._locks.release(lease)
        await rings[1].rotate()
        version = (await late._read()).version
        with pytest.raises(UnavailableError):  # Of an old version, and nobody is told that it was done.
            await late._tend(old, at_once=True)
        assert await late._run(_SAVE, lease.token, old.version, b"{}") == 0, "an old version"
        assert await late._run(_SAVE, lease.token, version, b"{}") == 0, "fenced"
        kid, _, _ = await rings[1].signing_key()
        await rings[2].withdraw(kid)
        assert await rings[2].public_key(kid) is None
        # Another app secret: the ring is sealed anew, and the old secret is not needed any more.
        turned = SigningKeyRing(store, AppKeys(secrets[::-1]))
        await turned.signing_key()
        assert {each.sealed_with for each in turned.describe()} == {AppKeys(secrets[1:]).newest}
        await SigningKeyRing(store, AppKeys(secrets[1:])).signing_key()
        with pytest.raises(ConfigError, match="dropped too early"):
            await SigningKeyRing(store, AppKeys(["third secret of the app, 32 characters"])).signing_key()
        verifying = SigningKeyRing(store)
        assert (await verifying.jwks())["keys"]
        with pytest.raises(ConfigError, match="only verifies"):
            await verifying.signing_key()
    finally:
        for ring in rings:
            await ring.aclose()


# Clients --------------------------------------------------------------------------------------------------------------


async def test_clients_are_registered_at_run_time_and_their_secrets_renewed(three: list[Instance]) -> None:
    secret, digest = new_client_secret()
    client = Client(
        "late", grants=("client_credentials",), auth_method="client_secret_basic", secret_sha256=digest, scopes=("a",)
    )
    await three[0].clients.save(client)
    form = {"grant_type": "client_credentials"}
    given = await three[1].post("/token", form, ("late", secret))
    assert given.status == 200
    assert "refresh_token" not in given.body
    assert await three[2].who(given.body["access_token"]) == 200
    wrong = await three[1].post("/token", form, ("late", SECRET))
    assert (wrong.status, wrong.body["error"]) == (401, "invalid_client")
    assert wrong.headers["www-authenticate"].startswith("Basic")
    renewed = await three[0].clients.renew_secret("late")
    assert (await three[0].post("/token", form, ("late", secret))).status == 401
    assert (await three[0].post("/token", form, ("late", renewed))).status == 200
    await three[0].clients.remove("late")
    assert await three[0].clients.find("late") is None
    with pytest.raises(ConfigError, match="settings"):
        await three[0].clients.remove("app")
    with pytest.raises(ConfigError, match="no store"):
        await ClientStore([]).save(client)


async def test_nothing_that_opens_a_door_is_in_the_store_or_in_a_log(
    three: list[Instance], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="noctule")
    code, verifier = await three[0].code()
    given = (await three[0].exchange(code, verifier)).body
    renewed = (await three[1].refresh(given["refresh_token"])).body
    await three[1].exchange(code, verifier)
    secrets = [code.rpartition(".")[2], verifier, SECRET]
    secrets += [each["refresh_token"].rpartition(".")[2] for each in (given, renewed)]
    secrets += [each["refresh_token"].split(".")[2] for each in (given, renewed)]  # The handle, too.
    secrets += [each["access_token"].rpartition(".")[2] for each in (given, renewed)]
    store = three[0].store
    kept = b""
    async for key in store.scan_iter():
        kind = await store.type(key)
        kept += key + b" "
        if kind == b"hash":
            kept += repr(await store.hgetall(key)).encode()
        elif kind == b"stream":
            kept += repr(await store.xrange(key)).encode()
        elif kind == b"string":
            kept += repr(await store.get(key)).encode()
    assert b"code:" in kept
    assert b"ring" in kept
    said = repr(
        [(record.getMessage(), record.__dict__) for record in caplog.records if record.name.startswith("noctule")]
    )
    for secret in secrets:
        assert secret.encode() not in kept
        assert secret not in said
    assert b'"d"' not in kept, "no private key in clear"


# As a client ----------------------------------------------------------------------------------------------------------


def client_app(one: Instance) -> Any:
    """An app that lets its users sign in at the authorization server, by Authlib."""
    transport = httpx.ASGITransport(one.http._transport.app)  # type: ignore[attr-defined]
    provider = OutsideProvider(
        "ours",
        client_id="web",
        client_secret=SECRET,
        metadata_url=f"{ISSUER}/.well-known/oauth-authorization-server",
        scope="posts:read",
        client_options={"transport": transport},
    )

    async def begin(request: Request) -> Response:
        return await provider.begin(request, REDIRECT)

    async def finish(request: Request) -> Response:
        try:
            token = await provider.finish(request)
        except SignInError as error:
            return JSONResponse({"error": error.code}, 400)
        request.session.regenerate()  # type: ignore[attr-defined]
        request.session["signed_in"] = True
        return JSONResponse({"scope": token["scope"], "token": token["access_token"]})

    return Sessions(Starlette(routes=[Route("/begin", begin), Route("/callback", finish)]), store=one.store)


async def test_authlib_signs_in_at_our_server_begun_here_and_finished_there(redis_server: "RedisServer") -> None:
    async with instances(redis_server.url, 2) as (one, other):
        apps = [client_app(each) for each in (one, other)]
        browsers = [
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="https://app.example") for app in apps
        ]
        begun = await browsers[0].get("/begin")
        asked = parse_qs(urlsplit(begun.headers["location"]).query)
        assert asked["code_challenge_method"] == ["S256"]
        answered = (await one.http.get("/authorize?" + urlsplit(begun.headers["location"]).query)).headers["location"]
        callback = f"/callback?{urlsplit(answered).query}"
        # Somebody else's browser has no such state, and another provider's answer is not taken.
        assert (await browsers[1].get(callback)).status_code == 400
        other_issuer = callback.replace("id.example", "evil.example")
        assert (await browsers[0].get(other_issuer)).status_code == 400
        browsers[1].cookies = browsers[0].cookies
        signed_in = await browsers[1].get(callback)
        assert signed_in.status_code == 200, signed_in.text
        assert signed_in.json()["scope"] == "posts:read"
        assert await other.who(signed_in.json()["token"]) == 200
        assert (await browsers[1].get(callback)).status_code == 400, "once"
        for browser in browsers:
            await browser.aclose()


async def test_every_endpoint_says_what_is_wrong_and_keeps_caches_out(three: list[Instance]) -> None:
    http = three[0].http
    assert (await http.get("/nothing")).status_code == 404
    assert (await http.head("/jwks.json")).status_code == 200
    assert (await http.head("/authorize")).status_code == 405, "nothing is granted by looking"
    wrong_method = await http.get("/token")
    assert (wrong_method.status_code, wrong_method.headers["allow"]) == (405, "POST")
    as_json = await http.post("/token", json={"grant_type": "client_credentials"})
    assert (as_json.status_code, as_json.json()["error"]) == (400, "invalid_request")
    in_url = await http.post("/token?client_id=app", data={"grant_type": "refresh_token"})
    assert in_url.json()["error_description"] == "parameters belong into the body"
    long = await http.post("/token", data={"client_id": "app", "x": "y" * 20_000})
    assert long.json()["error"] == "invalid_request"
    unknown = await http.get("/authorize", params={"client_id": "nobody", "redirect_uri": "https://evil.example"})
    assert unknown.status_code == 400
    assert "location" not in unknown.headers
    told = await http.get("/authorize", params={"client_id": "app", "redirect_uri": REDIRECT, "state": "s"})
    query = parse_qs(urlsplit(told.headers["location"]).query)
    assert (query["error"], query["state"], query["iss"]) == (["invalid_request"], ["s"], [ISSUER])
    assert told.headers["x-frame-options"] == "DENY"
    for form, code in (
        ({"client_id": "app"}, "invalid_request"),
        ({"client_id": "app", "grant_type": "password"}, "unsupported_grant_type"),
        ({"client_id": "app", "grant_type": "client_credentials"}, "unauthorized_client"),
        ({"client_id": "nobody", "grant_type": "refresh_token"}, "invalid_client"),
        ({"client_id": "app", "grant_type": "refresh_token", "refresh_token": "x"}, "invalid_grant"),
    ):
        answer = await three[0].post("/token", form)
        assert answer.body["error"] == code
        assert answer.headers["cache-control"] == "no-store"
    code_form = {"token": "nac.0.x.y", "client_id": "app"}
    assert (await three[0].post("/revoke", code_form)).body["error"] == "unsupported_token_type"


async def test_a_store_that_is_away_is_a_503_that_may_be_sent_again(
    three: list[Instance], redis_server: "RedisServer", monkeypatch: pytest.MonkeyPatch
) -> None:
    given = await three[0].sign_in()
    redis_server.kill()
    impatient = {**(retrying_idempotent.__kwdefaults__ or {}), "budget_s": 0.2}
    monkeypatch.setattr(retrying_idempotent, "__kwdefaults__", impatient)
    answer = await three[0].refresh(given["refresh_token"])
    assert (answer.status, answer.body["error"]) == (503, "temporarily_unavailable")
    assert answer.headers["retry-after"] == "1"
