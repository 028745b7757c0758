"""Child processes of the supervisor, with small programs in their place; and the ports it looks at."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from noctule.base.errors import ConfigError, NoctuleError, StorageError, UnavailableError
from noctule.deploy.local.checks import FREE_PORTS_VARIABLE, check_ports_free, free_ports
from noctule.deploy.local.child import Child
from noctule.deploy.local.plan import ProcessPlan, WantedPort
from noctule.deploy.local.processes import LINE_BYTES_MAX, LogFile, Process

pytestmark = pytest.mark.integration

SERVE = "import json, os, signal; print(json.dumps({'event': 'node_serving', 'id': 1}), flush=True)\n"
START_S = 20.0


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Callable[[str], Process]]:
    """Starts a Python program as a child."""
    started: list[Process] = []

    def start_program(program: str) -> Process:
        log = LogFile(tmp_path / f"child-{len(started)}.log")
        started.append(Process("node-1", [sys.executable, "-c", program], {"MARK": "set"}, log))
        return started[-1]

    yield start_program
    for process in started:
        await process.kill()


async def test_the_line_that_it_serves_is_heard_and_all_else_goes_to_the_log(
    start: Callable[[str], Process],
) -> None:
    process = start(
        "import sys; print('hello', flush=True)\n" + SERVE + "print('over'); sys.stdout.write('no newline')"
    )
    assert await process.wait_serving(START_S) == {"event": "node_serving", "id": 1}
    assert await process.ended == 0
    assert process.log.path.read_text().splitlines() == ["hello", "over", "no newline"]
    assert not process.is_alive


async def test_a_line_without_end_is_bounded(start: Callable[[str], Process]) -> None:
    process = start(f"print('x' * {3 * LINE_BYTES_MAX}, flush=True)\n" + SERVE)
    assert await process.wait_serving(START_S) == {"event": "node_serving", "id": 1}
    text = process.log.path.read_text()
    assert text.count("x") == 3 * LINE_BYTES_MAX
    assert max(map(len, text.splitlines())) <= 2 * LINE_BYTES_MAX


@pytest.mark.parametrize(
    ("code", "kind"), [(2, ConfigError), (6, StorageError), (3, UnavailableError), (1, UnavailableError)]
)
async def test_its_exit_code_and_last_words_are_the_error(
    start: Callable[[str], Process], code: int, kind: type[NoctuleError]
) -> None:
    process = start(f"import sys; print('error: no luck', file=sys.stderr); sys.exit({code})")
    with pytest.raises(kind, match=r"^node-1: no luck \(its log: .*child-0\.log\)$"):
        await process.wait_serving(START_S)


async def test_one_that_says_nothing_is_given_up(start: Callable[[str], Process]) -> None:
    process = start("import signal; signal.pause()")
    with pytest.raises(UnavailableError, match=r"node-1 did not serve within 0\.2 s"):
        await process.wait_serving(0.2)


async def test_it_is_in_a_process_group_of_its_own_and_knows_its_supervisor(start: Callable[[str], Process]) -> None:
    facts = "{'event': 'node_serving', 'group': os.getpgrp(), 'input': sys.stdin.read(), **os.environ}"
    process = start(f"import json, os, sys; print(json.dumps({facts}), flush=True)")
    said = await process.wait_serving(START_S)
    assert said["group"] == process.pid != os.getpgrp()
    assert (said["input"], said["MARK"], said["NOCTULE_SUPERVISOR_PID"]) == ("", "set", str(os.getpid()))


async def test_one_that_does_not_listen_is_killed(start: Callable[[str], Process]) -> None:
    ignore = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    process = start(ignore + SERVE + "signal.pause(); signal.pause()")
    await process.wait_serving(START_S)
    await process.stop(0.2)
    assert process.ended.result() == -signal.SIGKILL
    assert "was ended by signal 9" in str(process.failure())
    # Both are harmless to one that has ended.
    process.send(signal.SIGTERM)
    await process.stop(0.2)


async def test_a_command_that_is_not_there_leaves_nothing_open(tmp_path: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(StorageError, match="node-1: cannot start /nowhere/python: No such file"):
        Process("node-1", ["/nowhere/python"], {}, LogFile(tmp_path / "log"))
    with pytest.raises(StorageError, match="cannot start"):
        Process("node-1", [sys.executable], {}, LogFile(tmp_path / "missing" / "log"))
    assert set(os.listdir("/proc/self/fd")) == before


async def test_ended_processes_leave_no_descriptor(start: Callable[[str], Process]) -> None:
    # The first one makes the loop open what it keeps.
    await start("").ended
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        await start(SERVE).ended
    assert len(os.listdir("/proc/self/fd")) == before


async def test_a_child_that_ends_is_started_again_and_both_is_told(tmp_path: Path) -> None:
    notices: list[str] = []
    told: asyncio.Queue[str] = asyncio.Queue()
    plan = ProcessPlan("web-1", (sys.executable, "-c", SERVE + "signal.pause()"))
    child = Child(plan, tmp_path, notices.append)
    child.start()
    keeper: asyncio.Task[None] | None = None
    try:
        await child.wait_serving()
        first = child.pid
        keeper = asyncio.create_task(
            child.keep_running(on_end=lambda: told.put_nowait("end"), on_serving=lambda: told.put_nowait("serving"))
        )
        os.kill(first, signal.SIGKILL)
        async with asyncio.timeout(START_S):
            assert [await told.get(), await told.get()] == ["end", "serving"]
        assert child.pid != first
        assert child.is_serving
        assert notices == [
            f"web-1: was ended by signal 9 (its log: {tmp_path / 'web-1.log'}); starting it again in 0.05 s",
            f"web-1 serves again (pid {child.pid})",
        ]
    finally:
        if keeper is not None:
            keeper.cancel()
            await asyncio.wait({keeper})
        await child.stop(5)
    assert told.empty()
    assert len(notices) == 2, "an end that was asked for is no news"
    with pytest.raises(UnavailableError, match="was ended by signal 15"):
        await child.raise_at_end()


async def test_a_child_that_was_never_well_again_is_not_said_to_end_again(tmp_path: Path) -> None:
    """Whoever was told of its end has forgotten it, and would not know whom to forget."""
    told: list[str] = []
    marker = tmp_path / "was-here"
    broken = f"import os, sys\nif os.path.exists({str(marker)!r}): sys.exit('error: broken')\n"
    plan = ProcessPlan("web-1", (sys.executable, "-c", broken + SERVE + "signal.pause()"))
    notices: list[str] = []
    child = Child(plan, tmp_path, notices.append)
    child.start()
    await child.wait_serving()
    marker.touch()
    keeper = asyncio.create_task(
        child.keep_running(on_end=lambda: told.append("end"), on_serving=lambda: told.append("serving"))
    )
    try:
        os.kill(child.pid, signal.SIGKILL)
        async with asyncio.timeout(START_S):
            while len(notices) < 3:
                await asyncio.sleep(0.02)
    finally:
        keeper.cancel()
        await asyncio.wait({keeper})
        await child.kill()
    assert told == ["end"]
    assert "broken" in notices[-1]


def test_free_ports_are_free_different_and_out_of_the_way_of_connections() -> None:
    first_ephemeral = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    avoided = set(free_ports("127.0.0.1", 3, avoid=set()))
    ports = list(free_ports("127.0.0.1", 50, avoid=avoided))
    assert len(set(ports) | avoided) == 53
    assert all(port < first_ephemeral for port in ports)
    check_ports_free([WantedPort("127.0.0.1", port, "--port", "x") for port in ports])


def test_free_ports_are_taken_from_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    (port,) = free_ports("127.0.0.1", 1, avoid=set())
    monkeypatch.setenv(FREE_PORTS_VARIABLE, f"{port}-{port}")
    assert list(free_ports("127.0.0.1", 1, avoid=set())) == [port]
    with pytest.raises(ConfigError, match=r"found no free port on 127\.0\.0\.1"):
        next(free_ports("127.0.0.1", 1, avoid={port}))


@pytest.mark.parametrize("told", ["", "20000", "20000-", "a-b", "0-9", "20001-20000", "20000-70000"])
def test_a_range_of_free_ports_that_is_none_is_told(told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FREE_PORTS_VARIABLE, told)
    with pytest.raises(ConfigError, match=f"NOCTULE_FREE_PORTS is '{told}': give the first and the last port"):
        next(free_ports("127.0.0.1", 1, avoid=set()))


def test_a_port_that_cannot_be_listened_on_is_told_with_the_reason() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        wanted = [WantedPort("127.0.0.1", port, "--port", "the gateway"), WantedPort("192.0.2.1", 80, "--host", "x")]
        with pytest.raises(ConfigError) as caught:
            check_ports_free(wanted)
    assert str(caught.value) == (
        f"port {port} on 127.0.0.1 for the gateway cannot be used: Address already in use; "
        "stop what uses it, or choose another --port; "
        "port 80 on 192.0.2.1 for x cannot be used: Cannot assign requested address; "
        "stop what uses it, or choose another --host"
    )
