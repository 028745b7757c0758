"""HAProxy's runtime socket: one command, one answer; and what its tables say."""

import asyncio
import contextlib
import csv
import io
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from noctule.base.errors import UnavailableError

ANSWER_S_MAX = 5.0
ANSWER_BYTES_MAX = 64 * 1024 * 1024
"""`show stat` of 10,000 servers is some 10 MB."""

_SHOW_LOADS = "show stat -1 4 -1"
_PROMPT = b"\n> "
"""Ends each answer on a connection that stays open."""

_MAINTENANCE = 0x01 | 0x04
"""SRV_ADMF_FMAINT and SRV_ADMF_CMAINT: taken out at the socket, or by `disabled` in the config."""


@dataclass(frozen=True, slots=True)
class ServerState:
    """One server as HAProxy has it."""

    address: str
    port: int
    weight: int
    is_out: bool
    """In maintenance: nothing new."""


@dataclass(frozen=True, slots=True)
class ServerLoad:
    """One server's numbers."""

    status: str
    """UP, DOWN, MAINT, no check; with how many checks are left to the other, as in ``UP 1/3``."""
    in_flight: int
    queued: int
    requests: int
    failures: int
    """Failed connections and responses."""
    retries: int


class RuntimeSocket:
    """Commands to a HAProxy. Each opens a connection of its own, so a reload between two is no matter."""

    def __init__(self, path: str) -> None:
        self._path = path

    async def ask(self, command: str) -> str:
        """The answer, without the empty lines at its end; `UnavailableError` when nobody answers in time."""
        try:
            async with asyncio.timeout(ANSWER_S_MAX):
                return await self._ask(command)
        except (OSError, TimeoutError) as error:
            raise UnavailableError(f"HAProxy does not answer at {self._path}: {error or 'too slow'}") from error

    async def _ask(self, command: str) -> str:
        reader, writer = await asyncio.open_unix_connection(self._path)
        try:
            writer.write(command.encode() + b"\n")
            pieces, size = [], 0
            while piece := await reader.read(256 * 1024):
                pieces.append(piece)
                size += len(piece)
                if size > ANSWER_BYTES_MAX:
                    raise OSError(f"its answer is over {ANSWER_BYTES_MAX} bytes")
            return b"".join(pieces).decode(errors="replace").rstrip("\n")
        finally:
            writer.close()

    async def do(self, command: str, *expected: str) -> None:
        """Ask for a change; `UnavailableError` with HAProxy's words unless it says nothing, or what is expected."""
        answer = (await self.ask(command)).strip()
        if answer and not answer.startswith(expected or ("\0",)):
            raise UnavailableError(f"HAProxy refuses {command!r}: {answer}")

    async def pid(self) -> int:
        """Of the process that answers."""
        for line in (await self.ask("show info")).splitlines():
            name, _, value = line.partition(": ")
            if name == "Pid":
                return int(value)
        raise UnavailableError("HAProxy does not say its pid")

    async def servers(self) -> dict[tuple[str, str], ServerState]:
        """All servers by backend and name."""
        _, header, *lines = (await self.ask("show servers state")).splitlines()
        columns = {name: number for number, name in enumerate(header.removeprefix("# ").split())}
        found = {}
        for line in lines:
            if words := line.split():
                found[words[columns["be_name"]], words[columns["srv_name"]]] = ServerState(
                    words[columns["srv_addr"]],
                    int(words[columns["srv_port"]]),
                    int(words[columns["srv_uweight"]]),
                    bool(int(words[columns["srv_admin_state"]]) & _MAINTENANCE),
                )
        return found

    async def loads(self) -> dict[tuple[str, str], ServerLoad]:
        """The numbers of all servers by backend and name."""
        return _loads(await self.ask(_SHOW_LOADS))

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[Callable[[], Awaitable[int]]]:
        """Ask over one connection how much is in flight, also after the soft stop, when HAProxy takes no new ones."""
        try:
            async with asyncio.timeout(ANSWER_S_MAX):
                reader, writer = await asyncio.open_unix_connection(self._path, limit=ANSWER_BYTES_MAX)
                writer.write(b"prompt\n")
                await reader.readuntil(_PROMPT)
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            raise UnavailableError(f"HAProxy does not answer at {self._path}: {error or 'too slow'}") from error

        async def in_flight() -> int:
            try:
                async with asyncio.timeout(ANSWER_S_MAX):
                    writer.write(_SHOW_LOADS.encode() + b"\n")
                    text = (await reader.readuntil(_PROMPT)).decode(errors="replace").removesuffix(_PROMPT.decode())
            except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
                raise UnavailableError(f"HAProxy does not answer at {self._path}: {error or 'too slow'}") from error
            return sum(load.in_flight + load.queued for load in _loads(text.strip()).values())

        try:
            yield in_flight
        finally:
            writer.close()

    async def map_entries(self, file: str) -> dict[str, str]:
        """What a map holds."""
        lines = (line.split(maxsplit=2) for line in (await self.ask(f"show map {file}")).splitlines())
        return {words[1]: words[2] for words in lines if len(words) == 3}


def _loads(text: str) -> dict[tuple[str, str], ServerLoad]:
    return {
        (row["pxname"], row["svname"]): ServerLoad(
            row["status"],
            int(row["scur"] or 0),
            int(row["qcur"] or 0),
            int(row["stot"] or 0),
            int(row["econ"] or 0) + int(row["eresp"] or 0),
            int(row["wretr"] or 0),
        )
        for row in csv.DictReader(io.StringIO(text.removeprefix("# ")))
    }
