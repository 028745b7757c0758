"""The log of a child process: bounded, and asked for its last words."""

import json
import os
from pathlib import Path

import pytest

from noctule.base.errors import ConfigError
from noctule.deploy.local.processes import SUPERVISOR_VARIABLE, LogFile, check_supervisor


@pytest.fixture
def log(tmp_path: Path) -> LogFile:
    return LogFile(tmp_path / "node-1.log")


def live(log: LogFile, *lines: str) -> None:
    """One life of a process that writes these lines."""
    descriptor = log.open_for_child()
    os.write(descriptor, "".join(line + "\n" for line in lines).encode())
    os.close(descriptor)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["error: no disk", "hint: buy one"], "no disk"),
        (["error: first", "error: second"], "second"),
        (['{"level":"info","event":"fine"}', "plain"], "plain"),
        (
            [json.dumps({"level": "error", "event": "died", "exception": "Traceback\n  x\nKeyError: 1\n"})],
            "died: KeyError: 1",
        ),
        ([json.dumps({"level": "critical", "event": "died"}), '{"level":"info","event":"bye"}'], "died"),
        (["{not json"], "{not json"),
        ([], "it said nothing"),
    ],
)
def test_the_last_words_are_its_last_error(log: LogFile, lines: list[str], words: str) -> None:
    live(log, *lines)
    assert log.last_error() == words


def test_an_earlier_life_does_not_speak_for_this_one(log: LogFile) -> None:
    live(log, "error: long ago")
    live(log, "now")
    assert log.last_error() == "now"
    assert log.path.read_text() == "error: long ago\nnow\n"


def test_a_log_over_its_bound_is_kept_once_and_begins_anew(log: LogFile) -> None:
    descriptor = log.open_for_child()
    kept = log.path.with_name("node-1.log.1")
    os.write(descriptor, b"a" * 100)
    log.rotate(bytes_max=100)
    assert not kept.exists(), "exactly the bound is not over it"
    os.write(descriptor, b"b")
    log.rotate(bytes_max=100)
    assert kept.read_bytes() == b"a" * 100 + b"b"
    # The process has the file open all the time and goes on at its new end.
    os.write(descriptor, b"error: after\n")
    os.close(descriptor)
    assert log.path.read_bytes() == b"error: after\n"
    assert log.last_error() == "after"


def test_lines_of_stdout_are_added_to_those_of_stderr(log: LogFile) -> None:
    live(log, "one")
    log.append(b"two")
    live(log, "three")
    assert log.path.read_text() == "one\ntwo\nthree\n"


def test_a_child_notices_that_its_supervisor_is_gone() -> None:
    check_supervisor({})
    check_supervisor({SUPERVISOR_VARIABLE: str(os.getppid())})
    with pytest.raises(ConfigError, match=f"pid {os.getpid()}"):
        check_supervisor({SUPERVISOR_VARIABLE: str(os.getpid())})
