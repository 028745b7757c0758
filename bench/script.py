"""The edges that both scripts share: arguments, signals, errors, the JSON file."""

import argparse
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import msgspec

from noctule.base.errors import NoctuleError
from noctule.cli import output


def run_script(bench: Callable[[], int]) -> NoReturn:
    """Run a bench and exit with its code; SIGTERM ends it as Ctrl-C does, so that it stops all it has started."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        sys.exit(bench())
    except KeyboardInterrupt:
        sys.exit(output.INTERRUPTED)
    except NoctuleError as error:
        sys.exit(output.report(error, is_debug=bool(os.environ.get("NOCTULE_DEBUG"))))


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """``--json FILE``, refused at once and not after minutes when it could not be written."""
    parser.add_argument("--json", type=_writable, metavar="FILE", help="write every number and the machine there too")


def write_json(path: Path, report: msgspec.Struct) -> None:
    """Write a report as indented JSON."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")


def positive_count(text: str) -> int:
    """An argument that counts something; raises what argparse shows in one line."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def positive_seconds(text: str) -> float:
    """An argument in seconds, 0.01 to 3600; raises what argparse shows in one line."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.01 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0.01 to 3600")
    return seconds


def _writable(text: str) -> Path:
    path = Path(text)
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is not a file in a folder that exists")
    return path
