"""Links into a folder, answered as S3 would: ranges, conditions, refusals, uploads, and nothing that a browser runs."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from noctule.base.errors import RequestError
from noctule.base.ids import Instant, WallMs
from noctule.kits.files import FileStore
from noctule.kits.files.keys import new_key
from noctule.kits.files.serving import FileLinks

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 3000
"""Several pieces."""


class Clock:
    """Moved by hand."""

    def __init__(self) -> None:
        self.ms = 1_774_000_000_000

    def now(self) -> Instant:
        return Instant(self.ms / 1000)

    def wall_ms(self) -> WallMs:
        return WallMs(self.ms)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def open_files(folder: Path, clock: Clock, options: str = "") -> FileStore:
    return FileStore(f"file://{folder}{options}", link_secrets=[b"s" * 32], bytes_max=1_000_000, clock=clock)


@pytest.fixture
def files(tmp_path: Path, clock: Clock) -> FileStore:
    return open_files(tmp_path / "files", clock)


@pytest.fixture
async def client(files: FileStore, clock: Clock) -> AsyncIterator[httpx.AsyncClient]:
    async with visit(files, clock) as client:
        yield client


def visit(files: FileStore, clock: Clock) -> httpx.AsyncClient:
    app = FileLinks(files, clock=clock)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app")  # type: ignore[arg-type]


async def test_an_image_is_shown_in_a_sandbox(files: FileStore, client: httpx.AsyncClient) -> None:
    saved = await files.save(PNG, kind="avatars", allowed=("image/*",))
    answer = await client.get(files.links.sign(saved.key))
    assert answer.status_code == 200
    assert answer.content == PNG
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["content-length"] == str(len(PNG))
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in answer.headers["content-security-policy"]
    assert answer.headers["cache-control"] == "private"
    assert "content-disposition" not in answer.headers
    again = await client.get(files.links.sign(saved.key), headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


async def test_markup_and_documents_are_saved(files: FileStore, client: httpx.AsyncClient) -> None:
    for data in (b"<svg onload='alert(1)'/>", b"<html><script>", b"%PDF-1.7 x"):
        saved = await files.save(data, kind="docs", name="x.html")
        answer = await client.get(files.links.sign(saved.key))
        assert answer.headers["content-disposition"] == "attachment"
        assert answer.headers["content-type"] in ("application/octet-stream", "application/pdf")
    answer = await client.get(files.links.sign(saved.key, name="Bericht ü.pdf"))
    assert answer.headers["content-disposition"] == "attachment; filename*=UTF-8''Bericht%20%C3%BC.pdf"


@pytest.mark.parametrize(
    ("asked", "status", "span"),
    [
        ("bytes=0-9", 206, (0, 10)),
        ("bytes=700000-", 206, (700_000, len(PNG))),
        ("bytes=-5", 206, (len(PNG) - 5, len(PNG))),
        ("bytes=5-99999999", 206, (5, len(PNG))),
        ("bytes=-99999999", 206, (0, len(PNG))),
        ("bytes=9-5", 200, (0, len(PNG))),
        ("bytes=0-1,5-6", 200, (0, len(PNG))),
        ("lines=0-1", 200, (0, len(PNG))),
        ("bytes=-", 200, (0, len(PNG))),
    ],
)
async def test_ranges(
    files: FileStore, client: httpx.AsyncClient, asked: str, status: int, span: tuple[int, int]
) -> None:
    link = files.links.sign((await files.save(PNG, kind="avatars")).key)
    answer = await client.get(link, headers={"Range": asked})
    assert answer.status_code == status
    assert answer.content == PNG[span[0] : span[1]]
    assert answer.headers["content-length"] == str(span[1] - span[0])
    if status == 206:
        assert answer.headers["content-range"] == f"bytes {span[0]}-{span[1] - 1}/{len(PNG)}"
    head = await client.head(link, headers={"Range": asked})
    assert (head.status_code, head.content) == (status, b"")


async def test_ranges_behind_the_end_and_of_another_version(files: FileStore, client: httpx.AsyncClient) -> None:
    link = files.links.sign((await files.save(PNG, kind="avatars")).key)
    for asked in (f"bytes={len(PNG)}-", "bytes=-0"):
        answer = await client.get(link, headers={"Range": asked})
        assert answer.status_code == 416
        assert answer.headers["content-range"] == f"bytes */{len(PNG)}"
    answer = await client.get(link, headers={"Range": "bytes=0-1", "If-Range": '"other"'})
    assert answer.status_code == 200
    assert files.describe().endpoints[0].failures == 0


async def test_an_empty_file(files: FileStore, client: httpx.AsyncClient) -> None:
    saved = await files.save(b"", kind="docs")
    answer = await client.get(files.links.sign(saved.key))
    assert (answer.status_code, answer.content) == (200, b"")
    assert await files.read(saved.key) == b""


async def test_refusals_are_s3s(files: FileStore, client: httpx.AsyncClient, clock: Clock) -> None:
    saved = await files.save(PNG, kind="avatars")
    link = files.links.sign(saved.key, expires_s=60)
    for wrong in (
        link[:-1] + ("0" if link[-1] != "0" else "1"),
        link.replace("expires=1", "expires=2"),
        link.split("?")[0],
    ):
        answer = await client.get(wrong)
        assert answer.status_code == 403
        assert "<Code>SignatureDoesNotMatch</Code>" in answer.text
    assert (await client.put(link, content=PNG)).status_code == 403
    assert (await client.post(link)).status_code == 405
    gone = new_key("avatars", "png", clock.ms, 1)
    assert "<Code>NoSuchKey</Code>" in (await client.get(files.links.sign(gone))).text
    clock.ms += 60_000
    answer = await client.get(link)
    assert answer.status_code == 403
    assert "<Code>AccessDenied</Code>" in answer.text
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "path", ["/files/../../etc/passwd", "/files/%2e%2e/%2e%2e/%2e%2e/etc/passwd", "/", "/a/b/c/d/e"]
)
async def test_no_path_leads_out(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.get(path)
    assert answer.status_code == 404


async def test_an_upload_by_a_link(files: FileStore, client: httpx.AsyncClient) -> None:
    key, link = files.links.upload(kind="avatars", content_type="image/png", bytes_max=len(PNG))
    assert (await client.put(link, content=PNG)).status_code == 200
    assert (await client.get(files.links.sign(key))).content == PNG
    saved = await files.accept_uploaded(key, allowed=("image/*",))
    assert saved.key != key
    assert await files.read(saved.key) == PNG
    with pytest.raises(RequestError):
        await files.read(key)


async def test_a_file_is_not_taken_for_an_upload(files: FileStore) -> None:
    """Else whoever knows the key of another's file could have it copied, or deleted."""
    saved = await files.save(PNG, kind="avatars")
    for allowed in ((), ("application/pdf",)):
        with pytest.raises(RequestError, match="no key of an upload"):
            await files.accept_uploaded(saved.key, allowed=allowed)
    assert await files.read(saved.key) == PNG


async def test_an_upload_that_nobody_accepted_is_not_public(tmp_path: Path, clock: Clock) -> None:
    files = open_files(tmp_path / "public", clock, "?public=true")
    async with visit(files, clock) as client:
        key, link = files.links.upload(kind="avatars", content_type="image/png", bytes_max=len(PNG))
        assert (await client.put(link, content=PNG)).status_code == 200
        assert (await client.get(link.partition("?")[0])).status_code == 403
        with pytest.raises(RequestError, match="accepted"):
            files.links.public(key)
        saved = await files.accept_uploaded(key)
        assert (await client.get(files.links.public(saved.key))).content == PNG


async def test_an_upload_is_bounded_and_looked_at(files: FileStore, client: httpx.AsyncClient) -> None:
    key, link = files.links.upload(kind="avatars", content_type="image/png", bytes_max=len(PNG))

    async def pieces() -> AsyncIterator[bytes]:  # Without a Content-Length.
        yield PNG
        yield b"x"

    assert (await client.put(link, content=PNG + b"x")).status_code == 413
    assert (await client.put(link, content=pieces())).status_code == 413
    assert (await client.put(link, content=b"<html>")).status_code == 400
    assert (
        await client.put(link.replace(key, key[:-5] + ("1.png" if key[-5] == "0" else "0.png")), content=PNG)
    ).status_code == 403
    assert (
        await client.put(link.replace(f"bytes_max={len(PNG)}", "bytes_max=9999999"), content=PNG)
    ).status_code == 403
    with pytest.raises(RequestError):
        await files.stat(key)


async def test_public_only_where_it_is_declared(tmp_path: Path, clock: Clock) -> None:
    private, public = open_files(tmp_path / "a", clock), open_files(tmp_path / "b", clock, "?public=true")
    saved = await public.save(PNG, kind="logos")
    async with visit(public, clock) as client:
        assert (await client.get(public.links.public(saved.key))).content == PNG
        assert (await client.put(public.links.public(saved.key), content=PNG)).status_code == 403
    with pytest.raises(Exception, match="private"):
        private.links.public(saved.key)


async def test_what_is_not_allowed_is_not_saved(files: FileStore, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="allowed"):
        await files.save(b"<html>", kind="avatars", allowed=("image/*",))
    with pytest.raises(RequestError, match="limit"):
        await files.save(bytes(1_000_001), kind="avatars")
    assert list((tmp_path / "files").iterdir()) == []


@pytest.mark.parametrize("expires_s", [0, -1, 7 * 24 * 3600 + 1])
async def test_a_link_has_an_end(files: FileStore, clock: Clock, expires_s: int) -> None:
    with pytest.raises(RequestError, match="good for"):
        files.links.sign(new_key("a", "", clock.ms, 1), expires_s=expires_s)


async def test_streaming_stops_with_the_client(files: FileStore, clock: Clock) -> None:
    """And no faster than the client takes it: nothing is read ahead of `send`."""
    saved = await files.save(PNG, kind="avatars")
    path, _, query = files.links.sign(saved.key).partition("?")
    sent: list[bytes] = []

    async def receive() -> dict[str, object]:
        return {"type": "http.disconnect"}

    async def send(message: dict[str, object]) -> None:
        sent.append(bytes(message.get("body", b"")))  # type: ignore[call-overload]

    scope = {"type": "http", "method": "GET", "path": path, "query_string": query.encode(), "headers": []}
    await FileLinks(files, clock=clock)(scope, receive, send)  # type: ignore[arg-type]
    assert len(b"".join(sent)) < len(PNG)
