"""A real browser for the tests, headless Chromium, by its DevTools protocol: what a person does, and what they see.

PYTEST_DONT_REWRITE, as tests also import names from here, which pytest would warn about.
"""

import asyncio
import contextlib
import itertools
import os
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
from engines import engine_or_skip

START_S_MAX = 30.0
STEP_S_MAX = 20.0
"""A page with all that is on it."""

_DOOR = re.compile(rb"DevTools listening on ws://(\S+?)/")


class Page:
    """The one tab. Elements are named by CSS selectors; every step fails after `STEP_S_MAX`."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._loaded = asyncio.Event()

    async def open(self, url: str) -> None:
        """Go there; returns once the page is loaded."""
        self._loaded.clear()
        await self.command("Page.navigate", url=url)
        await self._wait_loaded()

    async def type(self, selector: str, text: str) -> None:
        """Type into a field."""
        await self.evaluate(f"document.querySelector({selector!r}).focus()")
        await self.command("Input.insertText", text=text)

    async def choose_file(self, selector: str, path: Path) -> None:
        """Choose a file in a field for files, as its dialog would."""
        root = (await self.command("DOM.getDocument"))["root"]["nodeId"]
        node = (await self.command("DOM.querySelector", nodeId=root, selector=selector))["nodeId"]
        await self.command("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    async def press(self, selector: str) -> None:
        """Press a button that leads to another page, with the mouse; returns once that is loaded."""
        box = await self.evaluate(
            f"(() => {{ const e = document.querySelector({selector!r}); e.scrollIntoView({{block: 'center'}});"
            " const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        self._loaded.clear()
        for kind in ("mousePressed", "mouseReleased"):
            await self.command("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)
        await self._wait_loaded()

    async def evaluate(self, expression: str) -> Any:
        """What JavaScript gives, as JSON; a promise is waited for."""
        answer = await self.command("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    async def text(self, selector: str) -> str:
        """What the element shows."""
        found: str = await self.evaluate(f"document.querySelector({selector!r}).innerText")
        return found

    async def command(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol."""
        number = next(self._numbers)
        answered = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        async with asyncio.timeout(STEP_S_MAX):
            answer = await answered
        assert "error" not in answer, (method, answer["error"])
        result: dict[str, Any] = answer["result"]
        return result

    async def listen(self) -> None:
        """Take in what the browser says, until it hangs up."""
        async for message in self._socket:
            said = message.json()
            if "id" in said:
                self._answers.pop(said["id"]).set_result(said)
            elif said["method"] == "Page.loadEventFired":
                self._loaded.set()

    async def _wait_loaded(self) -> None:
        async with asyncio.timeout(STEP_S_MAX):
            await self._loaded.wait()


@contextlib.asynccontextmanager
async def browser_page(directory: Path) -> AsyncIterator[Page]:
    """A browser that has been nowhere yet, ended afterwards with all its processes; its profile is in `directory`."""
    words = [
        engine_or_skip("chromium"), "--headless=new", "--remote-debugging-port=0", f"--user-data-dir={directory}",
        # It meets our own pages only, often as root, which its sandbox refuses, and with little shared memory.
        "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--no-first-run", "--disable-background-networking",
        "about:blank",
    ]  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        *words, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE, start_new_session=True
    )
    try:
        address = await _door(process)
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://{address}/json/list") as answer:
                url = next(each["webSocketDebuggerUrl"] for each in await answer.json() if each["type"] == "page")
            async with session.ws_connect(url, max_msg_size=0) as socket:
                page = Page(socket)
                listener = asyncio.create_task(page.listen(), name="browser")
                await page.command("Page.enable")
                yield page
                listener.cancel()
                await asyncio.wait([listener])
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


async def _door(process: asyncio.subprocess.Process) -> str:
    """Where it takes commands; it says so on stderr."""
    assert process.stderr is not None
    said = b""
    async with asyncio.timeout(START_S_MAX):
        while line := await process.stderr.readline():
            said += line
            if found := _DOOR.search(line):
                return found[1].decode()
    raise AssertionError(f"chromium ended: {said.decode(errors='replace')}")
