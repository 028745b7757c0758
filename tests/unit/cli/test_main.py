"""The command line: verbs, errors in one line, exit codes."""

import importlib
import json
import subprocess
import sys

import pytest
import typer

from noctule.base import errors
from noctule.base.form import IS_COMPILED
from noctule.cli import main as main_module
from noctule.cli import output
from noctule.cli.main import VERBS, application, main


def all_errors() -> list[type[errors.NoctuleError]]:
    found = [errors.NoctuleError]
    for kind in found:
        found += [subclass for subclass in kind.__subclasses__() if subclass.__module__ == errors.__name__]
    return found


@pytest.mark.parametrize("kind", all_errors())
def test_every_error_has_its_exit_code_in_the_table(
    kind: type[errors.NoctuleError], capsys: pytest.CaptureFixture[str]
) -> None:
    code = output.report(kind("the disk\nis full"), is_debug=False)
    assert code == kind.exit_code
    assert code in output.EXIT_CODES
    shown = capsys.readouterr()
    assert shown.out == ""
    lines = shown.err.splitlines()
    assert lines[0] == "error: the disk is full"
    assert all(line.startswith("hint: ") for line in lines[1:])
    assert len(lines) <= 2


def test_an_error_without_words_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    output.report(errors.StorageError(), is_debug=False)
    assert capsys.readouterr().err == "error: StorageError\n"


def test_a_bug_is_one_line_and_with_debug_a_traceback_too(capsys: pytest.CaptureFixture[str]) -> None:
    error = KeyError("x")
    assert output.report(error, is_debug=False) == errors.InternalError.exit_code
    plain = capsys.readouterr().err
    assert plain.startswith("error: internal: KeyError: 'x'\nhint: this is a bug in Noctule")
    assert output.report(error, is_debug=True) == errors.InternalError.exit_code
    assert capsys.readouterr().err == "KeyError: 'x'\n" + plain


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["bogus"], "No such command 'bogus'"),
        (["--bogus"], "No such option"),
        (["up", "--nodes", "x"], "--nodes"),
        (["up", "--nodes", "0"], "--nodes 0 must be from 1 to 99"),
        (["up", "main"], "app 'main' is not of the form module:attribute"),
        (["up", "a:b", "c:d"], "unexpected extra argument"),
        (["node", "--resp-port", "x"], "resp_port 'x' must be a whole number (from --resp-port)"),
        (["node", "--config", "/nowhere/noctule.toml"], "cannot read the settings file /nowhere/noctule.toml"),
        (["instance"], "Missing argument 'APP'"),
        (["instance", "a:b", "--port", "70000"], "--port 70000 must be between 0 and 65535"),
        (["kv", "get"], "Missing argument 'KEY'"),
        (["kv", "get", "x", "--node", "nowhere"], "node URL 'nowhere' is not a URL of host and port"),
        (["kv", "scan", "--limit", "0"], "--limit"),
        (["status", "--node", "http://"], "is not a URL of host and port"),
    ],
)
def test_what_is_typed_wrong_is_one_line_and_exit_code_2(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NOCTULE_NODE", "NOCTULE_DEBUG", "INSTANCE_ID", "PORT"):
        monkeypatch.delenv(name, raising=False)
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    first, *rest = shown.err.splitlines()
    assert first.startswith("error: ")
    assert words in first
    assert [line[:6] for line in rest] in ([], ["hint: "])


def test_no_arguments_show_the_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    shown = capsys.readouterr().out
    for verb in VERBS:
        assert f"\n  {verb.name} " in shown


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_the_summary_is_the_first_line_of_the_docstring(verb: main_module.Verb) -> None:
    found = getattr(importlib.import_module(verb.module), verb.attribute)
    text = found.info.help if isinstance(found, typer.Typer) else found.__doc__
    assert str(text).splitlines()[0] == verb.summary


def test_every_option_says_what_it_is_for() -> None:
    def check(path: str, command: object) -> int:
        count = 0
        for name, each in getattr(command, "commands", {}).items():
            assert each.help, f"{path} {name}"
            count += check(f"{path} {name}", each)
        for parameter in getattr(command, "params", []):
            assert parameter.help, f"{path} {parameter.name}"
            count += 1
        return count

    assert check("noctule", application(complete=True)) > 50


def test_version_prints_what_is_installed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == 0
    form = " (compiled)" if IS_COMPILED else ""
    assert capsys.readouterr().out == f"{output.installed_version()}{form}\n"
    assert main(["version", "--json"]) == 0
    told = {"version": output.installed_version(), "compiled": IS_COMPILED}
    assert json.loads(capsys.readouterr().out) == told


def test_a_signal_while_working_has_its_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(output, "print_json", interrupted)
    assert main(["version", "--json"]) == output.INTERRUPTED


def test_help_imports_neither_servers_nor_clients() -> None:
    """The list of verbs is there in the time that typer needs."""
    program = (
        "import sys; from noctule.cli.main import main; code = main(['--help']);"
        "heavy = [n for n in ('aiohttp', 'uvloop', 'redis', 'uvicorn', 'msgspec') if n in sys.modules];"
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_reader_that_has_gone_is_no_error() -> None:
    """As in ``noctule --help | head -1``."""
    program = (
        "import os, sys; from noctule.cli import output; from noctule.cli.main import main;"
        "reading, writing = os.pipe(); os.dup2(writing, 1); os.close(reading); sys.exit(main(['version', '--json']))"
    )
    done = subprocess.run([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True, check=False, timeout=30)
    assert (done.returncode, done.stderr) == (output.BROKEN_PIPE, "")
