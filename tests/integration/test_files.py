"""Files on real S3 stores: links and forms as others make them, the loss of a store, its repair, uploads in parts."""

import asyncio
import base64
import hashlib
import json
import os
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

import botocore.auth
import botocore.signers
import httpx
import pytest
from botocore.auth import S3SigV4PostAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from redis.asyncio import Redis
from s3_servers import SECRET, RcloneServer, S3Server, SeaweedServer, client

from noctule.adapters.system_clock import SystemClock
from noctule.base.errors import RequestError, UnavailableError
from noctule.kits.files import FileNotFoundInStoreError, FileStore, StoredFile
from noctule.kits.files.chain import EndpointAwayError
from noctule.kits.files.journal import Repair
from noctule.kits.files.keys import new_key
from noctule.kits.files.sigv4 import S3Signer

if TYPE_CHECKING:
    from engines import RedisServer

pytest_plugins = ("engines", "s3_servers")
pytestmark = [
    pytest.mark.integration,
    pytest.mark.engine("redis-server"),
    pytest.mark.usefixtures("clients_leave_connections"),
]

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 100
LARGE = PNG * 500
"""12.8 MB: in parts on its way to S3, and in a temporary file before."""
SOON_S = 15.0


@pytest.fixture
async def chain(rclones: list[RcloneServer], redis_server: "RedisServer") -> AsyncIterator[list[FileStore]]:
    """Three instances of an app with two stores."""
    urls = ",".join(server.url for server in rclones)
    instances = [FileStore(urls, store=redis_server.url, instances=3, part_bytes=1000) for _ in range(3)]
    yield instances
    for instance in instances:
        await instance.aclose()


@pytest.fixture(params=["swift", "seaweed"])
def s3_server(request: pytest.FixtureRequest) -> S3Server:
    """One that checks links as Amazon's does."""
    server: S3Server = request.getfixturevalue(request.param)
    return server


@pytest.fixture
async def on_s3(s3_server: S3Server, redis_server: "RedisServer") -> AsyncIterator[FileStore]:
    files = FileStore(s3_server.url, store=redis_server.url)
    yield files
    await files.aclose()


@pytest.fixture
async def on_seaweed(seaweed: SeaweedServer, redis_server: "RedisServer") -> AsyncIterator[FileStore]:
    files = FileStore(seaweed.url, store=redis_server.url)
    yield files
    await files.aclose()


@pytest.fixture(params=["swift", "seaweed", "rclone", "folder"])
async def files(
    request: pytest.FixtureRequest, redis_server: "RedisServer", tmp_path: Path
) -> AsyncIterator[FileStore]:
    """One store of each kind."""
    if request.param == "folder":
        url = f"file://{tmp_path}/files"
    elif request.param == "rclone":
        url = request.getfixturevalue("rclones")[0].url
    else:
        url = request.getfixturevalue(request.param).url
    files = FileStore(url, store=redis_server.url, link_secrets=[b"s" * 32])
    yield files
    await files.aclose()


async def pieces_of(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 100_000):
        yield data[start : start + 100_000]


async def read_all(pieces: AsyncIterator[bytes]) -> bytes:
    return b"".join([piece async for piece in pieces])


async def until_repaired(files: FileStore) -> None:
    async with asyncio.timeout(SOON_S):
        while await files.journal.count():
            await files.repair()
            await asyncio.sleep(0.05)


async def end(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Cancelled again until they end: redis-py loses a cancellation that comes while it reads an answer."""
    while any(not task.done() for task in tasks):
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=0.5)


def bytes_at(server: S3Server, key: str) -> bytes | None:
    """What a store has, as others see it."""
    s3 = client(server)
    try:
        body: bytes = s3.get_object(Bucket="files", Key=key)["Body"].read()
    except s3.exceptions.NoSuchKey:
        return None
    return body


def signer_of(files: FileStore) -> S3Signer:
    signer = files._chain.endpoints[0].signer
    assert signer is not None
    return signer


def policy_of(fields: dict[str, str]) -> dict[str, Any]:
    """What a form allows."""
    policy: dict[str, Any] = json.loads(base64.b64decode(fields["policy"]))
    return policy


async def submit(url: str, fields: dict[str, str], data: bytes) -> tuple[int, str]:
    """A browser's POST of a form; the status, and S3's word for what it refuses."""
    async with httpx.AsyncClient() as visitor:
        answer = await visitor.post(url, data=fields, files={"file": ("me.png", data, "application/x-whatever")})
    _, _, rest = answer.text.partition("<Code>")
    return answer.status_code, rest.partition("<")[0]


# One store ------------------------------------------------------------------------------------------------------------


async def test_a_file_comes_back_as_it_was(files: FileStore) -> None:
    saved = await files.save(pieces_of(LARGE), kind="photos", name="Ümläut & co.png", allowed=("image/*",))
    assert (saved.content_type, saved.size_bytes) == ("image/png", len(LARGE))
    assert saved.sha256 == hashlib.sha256(LARGE).hexdigest()
    found = await files.stat(saved.key)
    assert (found.content_type, found.size_bytes) == ("image/png", len(LARGE))
    if found.sha256:  # A folder keeps none.
        assert (found.sha256, found.name) == (saved.sha256, saved.name)
    assert await files.read(saved.key) == LARGE
    assert await read_all(files.stream(saved.key)) == LARGE
    assert await read_all(files.stream(saved.key, start=5, end=300_000)) == LARGE[5:300_000]
    assert await read_all(files.stream(saved.key, start=len(LARGE) - 3)) == LARGE[-3:]
    with pytest.raises(RequestError, match="bytes"):
        await read_all(files.stream(saved.key, start=len(LARGE)))
    await files.delete(saved.key)
    await files.delete(saved.key)
    with pytest.raises(FileNotFoundInStoreError):
        await files.stat(saved.key)
    assert files.describe().endpoints[0].failures == 0


async def test_an_upload_in_parts(files: FileStore) -> None:
    files.uploads.part_bytes = 1000
    upload = files.uploads.begin()
    for number in (3, 1):
        await files.uploads.put(upload, number, PNG[(number - 1) * 1000 : number * 1000])
    assert await files.uploads.parts(upload) == {1: 1000, 3: 1000}
    with pytest.raises(RequestError, match="not whole"):
        await files.uploads.finish(upload, kind="photos")
    await files.uploads.put(upload, 2, PNG[1000:2000])
    saved = await files.uploads.finish(upload, kind="photos", name="x", sha256=hashlib.sha256(PNG[:3000]).hexdigest())
    assert await files.read(saved.key) == PNG[:3000]
    assert await files.uploads.parts(upload) == {}
    assert await files.uploads.finish(upload, kind="photos", allowed=("image/*",)) == saved
    for asked in ({"kind": "photos", "allowed": ("text/plain",)}, {"kind": "docs"}, {"kind": "photos", "sha256": "0"}):
        with pytest.raises(RequestError, match=r"by its first bytes|already"):
            await files.uploads.finish(upload, **asked)  # type: ignore[arg-type]
    left = files.uploads.begin()
    await files.uploads.put(left, 1, b"x")
    await files.uploads.abort(left)
    assert await files.uploads.parts(left) == {}


@pytest.mark.parametrize(
    "name", ["ü" * 200, "😀" * 200, "a\nb\x00", " x "], ids=["umlauts", "emoji", "controls", "spaces"]
)
async def test_no_name_that_a_visitor_gives_takes_a_store_away(files: FileStore, name: str) -> None:
    """Each store bounds what it keeps beside a file, and would refuse more as it refuses anything else."""
    saved = await files.save(PNG, kind="photos", name=name)
    assert name.startswith(saved.name)
    found = await files.stat(saved.key)
    if found.sha256:  # A folder keeps neither.
        assert found.name == saved.name
    assert files.describe().endpoints[0].failures == 0


# Links ----------------------------------------------------------------------------------------------------------------


async def test_links_to_s3(on_s3: FileStore) -> None:
    saved = await on_s3.save(b"%PDF-1.7", kind="docs")
    link = on_s3.links.sign(saved.key, expires_s=3600, name="Bericht ü.pdf")
    async with httpx.AsyncClient() as visitor:
        answer = await visitor.get(link)
        assert (answer.status_code, answer.content) == (200, b"%PDF-1.7")
        assert answer.headers["content-disposition"] == "attachment; filename*=UTF-8''Bericht%20%C3%BC.pdf"
        assert answer.headers["content-type"] == "application/pdf"
        assert (await visitor.get(link, headers={"Range": "bytes=1-3"})).content == b"PDF"
        plain = await visitor.get(on_s3.links.sign(saved.key))
        assert plain.headers["content-disposition"] == "attachment"
        assert (await visitor.get(await on_s3.links.find(saved.key))).status_code == 200


async def test_links_to_s3_are_worth_nothing_when_changed_or_old(on_s3: FileStore) -> None:
    saved = await on_s3.save(PNG, kind="photos")
    other = await on_s3.save(PNG, kind="photos")
    link = on_s3.links.sign(saved.key, expires_s=600)
    async with httpx.AsyncClient() as visitor:
        assert (await visitor.get(link)).status_code == 200
        for changed in (
            link.replace(saved.key, other.key),
            link.replace("X-Amz-Expires=600&", "X-Amz-Expires=999&"),
            link[:-1] + ("0" if link[-1] != "0" else "1"),
        ):
            assert (await visitor.get(changed)).status_code == 403, changed
        assert (await visitor.get(link.partition("?")[0])).status_code in (400, 403)  # Private; Swift's word is 400.
        assert (await visitor.put(link, content=b"x")).status_code == 403
        assert (await visitor.delete(link)).status_code == 403
        short = on_s3.links.sign(saved.key, expires_s=1)
        async with asyncio.timeout(SOON_S):
            while (await visitor.get(short)).status_code == 200:
                await asyncio.sleep(0.1)
        assert (await visitor.get(short)).status_code == 403


async def test_an_upload_by_a_link_to_s3(on_s3: FileStore, s3_server: S3Server) -> None:
    key, link = on_s3.links.upload(kind="photos", content_type="image/png", bytes_max=len(PNG))
    async with httpx.AsyncClient() as visitor:
        assert (await visitor.put(link, content=PNG, headers={"Content-Type": "text/html"})).status_code == 403
        assert (await visitor.put(link, content=PNG, headers={"Content-Type": "image/png"})).status_code == 200
    saved = await on_s3.accept_uploaded(key, allowed=("image/*",), name="me.png")
    assert await on_s3.read(saved.key) == PNG
    assert bytes_at(s3_server, key) is None
    assert (await on_s3.stat(saved.key)).sha256 == hashlib.sha256(PNG).hexdigest()


async def test_an_upload_that_lied_is_deleted(on_s3: FileStore, s3_server: S3Server) -> None:
    key, link = on_s3.links.upload(kind="photos", content_type="image/png", bytes_max=100)
    async with httpx.AsyncClient() as visitor:
        put = await visitor.put(link, content=b"<svg onload='x'>", headers={"Content-Type": "image/png"})
        assert put.status_code == 200
    with pytest.raises(RequestError, match="by its first bytes"):
        await on_s3.accept_uploaded(key, allowed=("image/*",))
    assert bytes_at(s3_server, key) is None


@pytest.mark.parametrize("query", [{}, {"ResponseContentDisposition": "attachment; filename*=UTF-8''a%20b.pdf"}])
def test_boto3_signs_the_same_link(swift: S3Server, query: dict[str, str]) -> None:
    files = FileStore(swift.url)
    key = "docs/2026/01/01/00000000-0000-7000-8000-000000000000.png"
    theirs = client(swift).generate_presigned_url("get_object", {"Bucket": "files", "Key": key, **query}, ExpiresIn=60)
    given = dict(parse_qsl(urlsplit(theirs).query))
    wall_ms = int(datetime.strptime(given["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp() * 1000)
    signer = signer_of(files)
    named = [("response-content-disposition", value) for value in query.values()]
    ours = signer.presign("GET", key, expires_s=60, wall_ms=wall_ms, query=dict(named))
    assert ours.partition("?")[0] == theirs.partition("?")[0]
    assert dict(parse_qsl(urlsplit(ours).query)) == given


def test_botocore_makes_the_same_form(seaweed: SeaweedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime(2026, 3, 20, 23, 55, 0, tzinfo=UTC)  # It is good until the next day.
    for module in (botocore.auth, botocore.signers):
        monkeypatch.setattr(module, "get_current_datetime", lambda: now)
    key = new_key("photos", "png", 0, 0)
    conditions = [["content-length-range", 0, 9], {"Content-Type": "image/png"}]
    theirs = client(seaweed).generate_presigned_post("files", key, {"Content-Type": "image/png"}, conditions, 600)
    signer = signer_of(FileStore(seaweed.url))
    wall_ms = int(now.timestamp() * 1000)
    ours = signer.post_policy(key, expires_s=600, wall_ms=wall_ms, content_type="image/png", bytes_max=9)
    assert signer.url == theirs["url"]
    told = {"policy", "x-amz-signature"}
    assert {name: ours[name] for name in ours.keys() - told} == {
        name: value for name, value in theirs["fields"].items() if name not in told
    }
    our_policy, their_policy = policy_of(ours), policy_of(theirs["fields"])
    for policy in (our_policy, their_policy):  # Each writes its own order and spaces.
        policy["conditions"] = sorted(map(json.dumps, policy["conditions"]))
    assert our_policy == their_policy
    request = AWSRequest("POST", signer.url)
    request.context["timestamp"] = ours["x-amz-date"]
    witness = S3SigV4PostAuth(Credentials(seaweed.key_id, SECRET), "s3", seaweed.region)
    assert ours["x-amz-signature"] == witness.signature(ours["policy"], request)


# Forms ----------------------------------------------------------------------------------------------------------------


async def test_a_form_uploads_one_file_to_s3(on_seaweed: FileStore, seaweed: SeaweedServer) -> None:
    key, url, fields = on_seaweed.links.form(kind="photos", content_type="image/png", bytes_max=len(PNG))
    assert await submit(url, fields, PNG) == (204, "")
    assert client(seaweed).head_object(Bucket="files", Key=key)["ContentType"] == "image/png"
    await submit(url, {**fields, "acl": "public-read"}, PNG)
    async with httpx.AsyncClient() as visitor:
        assert (await visitor.get(f"{url}/{key}")).status_code == 403, "it stays private, whatever a form adds"
    saved = await on_seaweed.accept_uploaded(key, allowed=("image/*",), name="me.png")
    assert await on_seaweed.read(saved.key) == PNG
    assert bytes_at(seaweed, key) is None
    # Whoever has the form can send another file, under the old key only: what was accepted is not touched.
    assert await submit(url, fields, b"other") == (204, "")
    assert await on_seaweed.read(saved.key) == PNG


async def test_what_a_form_was_not_made_for_is_refused_by_s3(on_seaweed: FileStore, seaweed: SeaweedServer) -> None:
    key, url, fields = on_seaweed.links.form(kind="photos", content_type="image/png", bytes_max=len(PNG))
    policy = policy_of(fields)
    policy["conditions"] = [
        ["content-length-range", 0, 2**40] if isinstance(each, list) else each for each in policy["conditions"]
    ]
    wider = base64.b64encode(json.dumps(policy).encode()).decode()
    signature = fields["x-amz-signature"]
    other = new_key("photos", "png", 0, 0)
    for changed, data, refused in (
        ({}, PNG + b"x", (400, "EntityTooLarge")),
        ({"Content-Type": "text/html"}, PNG, (403, "AccessDenied")),
        ({"key": other}, PNG, (403, "AccessDenied")),
        ({"x-amz-meta-sha256": "0" * 64}, PNG, (403, "AccessDenied")),
        ({"policy": wider}, PNG + b"x", (403, "SignatureDoesNotMatch")),
        (
            {"x-amz-signature": signature[:-1] + ("0" if signature[-1] != "0" else "1")},
            PNG,
            (403, "SignatureDoesNotMatch"),
        ),
        ({"x-amz-signature": ""}, PNG, (403, "SignatureDoesNotMatch")),
    ):
        assert await submit(url, {**fields, **changed}, data) == refused, changed
    forger = replace(signer_of(on_seaweed), secret_access_key="another")
    forged = forger.post_policy(
        key, expires_s=60, wall_ms=SystemClock().wall_ms(), content_type="image/png", bytes_max=99
    )
    assert await submit(url, forged, b"x") == (403, "SignatureDoesNotMatch")
    assert bytes_at(seaweed, key) is None
    assert bytes_at(seaweed, other) is None


async def test_a_form_ends(on_seaweed: FileStore, seaweed: SeaweedServer) -> None:
    key, url, fields = on_seaweed.links.form(kind="photos", content_type="image/png", bytes_max=9)
    before = SystemClock().wall_ms() - 2000
    old = signer_of(on_seaweed).post_policy(key, expires_s=1, wall_ms=before, content_type="image/png", bytes_max=9)
    assert await submit(url, old, b"x") == (403, "AccessDenied")
    assert bytes_at(seaweed, key) is None
    assert await submit(url, fields, b"x") == (204, "")


# Two stores -----------------------------------------------------------------------------------------------------------


async def test_a_lost_store_is_written_around_and_repaired(chain: list[FileStore], rclones: list[RcloneServer]) -> None:
    """Saves, reads and deletes go on; later one of three instances repairs, whoever wrote it, and nobody asks it to."""
    first, second = rclones
    writer, reader, *_ = chain
    kept = await writer.save(PNG, kind="photos")
    doomed = await writer.save(PNG, kind="photos")
    first.kill()
    saved = [await writer.save(PNG + bytes([number]), kind="photos", name=f"{number}.png") for number in range(10)]
    for number, each in enumerate(saved):
        assert await reader.read(each.key) == PNG + bytes([number])
    await reader.delete(doomed.key)
    await reader.delete(saved[0].key)
    with pytest.raises(UnavailableError):  # Only the first has it.
        await reader.read(kept.key)
    assert writer.describe().saved_elsewhere == 10
    assert (await writer.links.find(saved[1].key)).startswith(second.endpoint)
    assert await writer.journal.count() == 11
    keepers = [asyncio.create_task(each.keep_repaired()) for each in chain]
    first.start()
    assert bytes_at(first, doomed.key) == PNG
    async with asyncio.timeout(SOON_S):
        while await reader.journal.count():
            await asyncio.sleep(0.1)
    await end(keepers)
    assert sorted(each.describe().mended for each in chain)[:2] == [0, 0]
    assert bytes_at(first, doomed.key) is None
    assert bytes_at(first, saved[0].key) is None
    assert bytes_at(first, kept.key) == PNG
    for number, each in enumerate(saved[1:], 1):
        assert bytes_at(first, each.key) == PNG + bytes([number])
    assert (await reader.stat(saved[3].key)).name == "3.png"


async def test_no_store_takes_it(chain: list[FileStore], rclones: list[RcloneServer]) -> None:
    for server in rclones:
        server.kill()
    with pytest.raises(UnavailableError):
        await chain[0].save(PNG, kind="photos")
    for server in rclones:
        server.start()
    await until_repaired(chain[0])


async def test_a_note_waits_for_the_journal(
    chain: list[FileStore], rclones: list[RcloneServer], redis_server: "RedisServer"
) -> None:
    rclones[0].kill()
    redis_server.kill()
    saved = await chain[0].save(PNG, kind="photos")
    assert chain[0].describe().repairs_unsaved == 1
    assert await chain[1].read(saved.key) == PNG
    redis_server.start()
    rclones[0].start()
    await until_repaired(chain[0])
    assert bytes_at(rclones[0], saved.key) == PNG


async def test_a_damaged_copy_is_not_given_and_replaced(chain: list[FileStore], rclones: list[RcloneServer]) -> None:
    first, second = rclones
    saved = await chain[0].save(PNG, kind="photos")
    second_only = FileStore(second.url)
    copied = StoredFile(saved.key, saved.content_type, saved.size_bytes, saved.sha256)
    await second_only._chain.put(second_only._chain.endpoints[0], copied, PNG)
    metadata = {"sha256": saved.sha256, "name": ""}
    client(first).put_object(Bucket="files", Key=saved.key, Body=b"X" * len(PNG), Metadata=metadata)
    assert await chain[0].read(saved.key) == PNG
    await until_repaired(chain[1])
    assert bytes_at(first, saved.key) == PNG


async def test_a_read_that_breaks_off_goes_on_at_the_other_store(
    chain: list[FileStore], rclones: list[RcloneServer]
) -> None:
    first, second = rclones
    saved = await chain[0].save(LARGE, kind="photos")
    second_only = FileStore(second.url)
    copied = StoredFile(saved.key, saved.content_type, saved.size_bytes, saved.sha256)
    await second_only._chain.put(second_only._chain.endpoints[0], copied, LARGE)
    got = b""
    async for piece in chain[0].stream(saved.key):
        if not got:
            first.kill()
        got += piece
    assert got == LARGE


async def test_an_upload_goes_on_at_another_instance_without_the_first_store(
    chain: list[FileStore], rclones: list[RcloneServer]
) -> None:
    """Each instance knows only what the stores have, as one does that was killed and started anew."""
    upload = chain[0].uploads.begin()
    await chain[0].uploads.put(upload, 1, PNG[:1000])
    rclones[0].kill()
    await chain[1].uploads.put(upload, 2, PNG[1000:2000])
    with pytest.raises(UnavailableError):
        await chain[1].uploads.finish(upload, kind="photos")
    rclones[0].start()
    async with asyncio.timeout(SOON_S):
        while len(await chain[2].uploads.parts(upload)) < 2:
            await asyncio.sleep(0.1)
    saved = await chain[2].uploads.finish(upload, kind="photos")
    assert await chain[0].read(saved.key) == PNG[:2000]


async def test_what_failed_and_was_tried_again_is_not_deleted_later(
    redis_server: "RedisServer", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upload keeps its key, so whatever a failed attempt left is no rubbish."""
    files = FileStore(f"file://{tmp_path}/a", store=redis_server.url)
    upload = files.uploads.begin()
    await files.uploads.put(upload, 1, PNG)

    async def put_fails(*_: object) -> None:
        raise EndpointAwayError("away")

    with monkeypatch.context() as patched:
        patched.setattr(files._chain, "put", put_fails)
        with pytest.raises(UnavailableError):
            await files.uploads.finish(upload, kind="photos")
        with pytest.raises(UnavailableError):
            await files.save(PNG, kind="photos")
    assert await files.journal.count() == 1  # Of the save, whose key nobody got.
    saved = await files.uploads.finish(upload, kind="photos")
    await until_repaired(files)
    assert await files.read(saved.key) == PNG
    await files.aclose()


async def test_what_is_deleted_while_it_is_copied_stays_deleted(
    redis_server: "RedisServer", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    urls = [f"file://{tmp_path}/a", f"file://{tmp_path}/b"]
    files = FileStore(",".join(urls), store=redis_server.url)
    saved = await FileStore(urls[1]).save(PNG, kind="photos")
    await files.journal.note(saved.key, Repair("copy", (urls[0],), saved.sha256))
    put = files._chain.put

    async def put_late(*arguments: object) -> None:
        await files.delete(saved.key)
        await put(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(files._chain, "put", put_late)
    await files.repair()
    with pytest.raises(FileNotFoundInStoreError):
        await files.read(saved.key)
    assert await files.journal.count() == 0
    await files.aclose()


async def test_a_late_note_does_not_turn_a_deletion_back(redis_server: "RedisServer", tmp_path: Path) -> None:
    files = FileStore(f"file://{tmp_path}/a", store=redis_server.url)
    await files.journal.note("k", Repair("delete", ("a",)))
    await files.journal.note("k", Repair("copy", ("a",)))
    assert await files.journal.page() == {"k": Repair("delete", ("a",))}
    assert not await files.journal.strike("k", Repair("copy", ("a",)))
    async with Redis.from_url(redis_server.url) as redis:
        assert await redis.hlen("files:files:repairs") == 1  # type: ignore[misc]
    await files.aclose()


async def test_uploads_that_nobody_finished_are_swept(redis_server: "RedisServer", tmp_path: Path) -> None:
    files = FileStore(f"file://{tmp_path}/a", store=redis_server.url, link_secrets=[b"s" * 32])
    upload = files.uploads.begin()
    await files.uploads.put(upload, 1, b"x")
    assert await files.uploads.sweep() == 0
    saved = await files.save(b"x", kind="docs")
    key, _ = files.links.upload(kind="docs", content_type="text/plain", bytes_max=9)
    await files.replace(key, pieces_of(b"x"), allowed=(), bytes_max=9)
    for path in (tmp_path / "a").rglob("*"):
        os.utime(path, (0, 0))
    assert await files.uploads.sweep() == 2
    assert await files.uploads.parts(upload) == {}
    assert await files.read(saved.key) == b"x"
    with pytest.raises(FileNotFoundInStoreError):
        await files.read(key)
    await files.aclose()


# The example ----------------------------------------------------------------------------------------------------------


async def test_the_example(redis_server: "RedisServer", tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOCTULE_FILES_URL", f"file://{tmp_path}/avatars")
    monkeypatch.setenv("NOCTULE_STORE_URL", redis_server.url)
    monkeypatch.setenv("NOCTULE_APP_SECRET", "s" * 32)
    from examples.files import app, lifespan

    transport = httpx.ASGITransport(app)
    async with lifespan(app), httpx.AsyncClient(transport=transport, base_url="http://app") as visitor:
        saved = (await visitor.put("/avatar", content=PNG)).json()
        assert (await visitor.get(saved["link"])).content == PNG
        shown = await visitor.get(f"/avatar/{saved['key']}", follow_redirects=True)
        assert (shown.status_code, shown.headers["content-type"]) == (200, "image/png")
        assert (await visitor.put("/avatar", content=b"<html>")).status_code == 400
        assert (await visitor.get("/avatar/../../etc/passwd")).status_code == 404
        gone = new_key("avatars", "png", 0, 0)
        assert (await visitor.get(f"/avatar/{gone}")).status_code == 404
