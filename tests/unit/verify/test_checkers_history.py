"""Histories as files, and what ``noctule verify history`` makes of them."""

import json
import xml.etree.ElementTree as ElementTree
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from noctule.base.errors import ConfigError
from noctule.cli import output
from noctule.cli.main import main
from noctule.verify.checkers import judge as judging
from noctule.verify.checkers.history import Operation, Recorder, load_history, write_history
from noctule.verify.checkers.judge import judge
from noctule.verify.checkers.picture import render_picture

GOOD = (
    '{"process":1,"key":"x","op":"write","arguments":[1],"start":0,"end":1,"outcome":"ok"}\n'
    '{"process":"b","key":"x","op":"read","result":1,"start":2.5,"end":3,"outcome":"ok"}\n'
)
STALE = GOOD + '{"process":2,"key":"x","op":"read","start":4,"end":5,"outcome":"ok"}\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "history.jsonl"


def test_what_is_written_is_read(file: Path) -> None:
    operations = [
        Operation(1, "txn", 0.5, "ok", None, (["append", "x", 1],), [None], 0.75),
        Operation("a", "write", 1.0, "unknown", "y", (None,)),
        Operation(2, "write", 1.0, "fail", "y", (2,), None, 2.0),
    ]
    write_history(file, operations)
    assert load_history(file) == operations


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("{", "line 4: Input data was truncated"),
        ("[]", "line 4: Expected `object`, got `array`"),
        ('{"process":1,"key":"x","op":"read","start":0,"end":1,"outcome":"maybe"}', "line 4: Invalid enum value"),
        (
            '{"process":1,"key":"x","op":"read","start":0,"outcome":"ok"}',
            "line 4: an operation that is ok needs its end",
        ),
        ('{"process":1,"key":"x","op":"read","start":2,"end":1,"outcome":"ok"}', "line 4: it ends at 1.0, before"),
        ('{"process":1,"op":"read","start":0,"end":1,"outcome":"unknown","result":1}', "line 4: .* has no result"),
        ('{"process":1,"op":"read","start":0,"end":1,"outcome":"ok","value":1}', "line 4: .*unknown field `value`"),
    ],
)
def test_the_line_that_is_wrong_is_named(file: Path, line: str, sentence: str) -> None:
    file.write_text(GOOD + "\n" + line + "\n" + GOOD)
    with pytest.raises(ConfigError, match=sentence):
        load_history(file)


def test_what_was_begun_and_not_ended_is_unknown() -> None:
    recorder = Recorder()
    first = recorder.begin(1, "x", "write", (1,), 0.0)
    recorder.begin(2, "x", "write", (2,), 0.5)
    third = recorder.begin(3, "x", "read", (), 0.75)
    recorder.end(first, "ok", 1.0)
    recorder.end(third, "fail", 2.0, result=4)
    operations = recorder.operations()
    assert [each.outcome for each in operations] == ["ok", "unknown", "fail"]
    assert [each.result for each in operations] == [None, None, None]


def test_a_history_that_holds_is_exit_code_0(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(GOOD)
    assert main(["verify", "history", str(file)]) == 0
    shown = capsys.readouterr().out
    assert "2 operations; keys by model: register: 1" in shown
    assert "HOLDS" in shown


def test_a_violation_is_shown_in_words_and_exit_code_10(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(STALE)
    assert main(["verify", "history", str(file)]) == output.VIOLATED == 10
    shown = capsys.readouterr().out
    assert "VIOLATED: not-linearizable at key 'x'" in shown
    assert [line.split() for line in shown.splitlines() if line.startswith("  ->")] == [
        ["->", "4.000000", "5.000000", "2", "read", "→", "null"]
    ]


def test_the_sentence_says_what_could_have_been_answered(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(STALE)
    main(["verify", "history", str(file)])
    assert "process 2 was answered read → null, but only 1 was possible" in capsys.readouterr().out


def test_a_search_that_was_given_up_is_exit_code_11(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging, "CONFIGURATIONS_MAX", 10)
    amounts = [Operation(number, "increment", number, "unknown", "x", (2**number,)) for number in range(1, 10)]
    undecided = [*amounts, Operation(0, "read", 20, "ok", "x", (), 1021, 21)]
    write_history(file, undecided)
    assert main(["verify", "history", str(file), "--picture", str(file.with_suffix(".svg"))]) == output.UNDECIDED == 11
    captured = capsys.readouterr()
    assert "UNDECIDED: x" in captured.out
    assert "HOLDS" not in captured.out
    assert "is not written" in captured.err
    assert main(["verify", "history", str(file), "--json"]) == 11
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert (told["holds"], told["undecided_keys"], told["violated_keys"]) == (False, ["x"], [])
    wrong = [Operation(1, "read", 0, "ok", "y", (), 7, 1), Operation(1, "write", 2, "ok", "y", (1,), None, 3)]
    write_history(file, [*undecided, *wrong])
    assert main(["verify", "history", str(file)]) == 10, "what is violated is violated"


def test_a_program_gets_the_same(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(STALE)
    assert main(["verify", "history", str(file), "--json", "--model", "register"]) == 10
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert told["holds"] is False
    assert told["violated_keys"] == ["x"]
    assert [each["op"] for each in told["violations"][0]["operations"]] == ["write", "read"]
    assert told["violations"][0]["offending"]["process"] == 2


@pytest.mark.parametrize("model", ["register", "counter", "set", "list-append"])
def test_files_that_cannot_be_judged_are_exit_code_2(
    model: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", "history", str(file), "--model", model]) == 2
    assert "cannot read the history" in capsys.readouterr().err
    file.write_text(GOOD + "no\n")
    assert main(["verify", "history", str(file), "--model", model]) == 2
    assert "line 3" in capsys.readouterr().err


def test_a_picture_marks_what_cannot_be(file: Path) -> None:
    file.write_text(STALE.replace('"x"', '"<&>"'))
    picture = file.with_suffix(".svg")
    assert main(["verify", "history", str(file), "--picture", str(picture)]) == 10
    root = ElementTree.fromstring(picture.read_text(encoding="utf-8"))
    rectangles = [each for each in root.iter("{http://www.w3.org/2000/svg}rect") if each.get("class")]
    assert [each.get("class") for each in rectangles] == ["ok", "offending"]
    titles = [each.text or "" for each in root.iter("{http://www.w3.org/2000/svg}title")]
    assert "offending: read → null, 4.0 s to 5.0 s" in titles


def test_bars_of_one_process_stand_beside_each_other_with_their_labels() -> None:
    history = [Operation(1, "write", n, "ok", "x", (f"value {n}",), None, n + 0.5) for n in range(3)]
    verdict = judge([*history, Operation(1, "read", 9, "ok", "x", (), "value 0", 10)])
    root = ElementTree.fromstring(render_picture(verdict.violations[0]))
    bars = [each for each in root.iter("{http://www.w3.org/2000/svg}rect") if each.get("class")]
    edges = [(float(each.get("x", "")), float(each.get("width", ""))) for each in bars]
    assert len(edges) > 1
    assert all(x + width < following for (x, width), (following, _) in pairwise(edges))
    assert all(width > 90 for _, width in edges)


def test_what_never_ended_has_the_rest_of_its_row_to_itself() -> None:
    """A client whose operation timed out goes on; its later bars would lie upon the open one."""
    history = [
        Operation(1, "write", 0, "unknown", "x", (1,)),
        Operation(1, "read", 1, "ok", "x", (), 1, 2),
        Operation(1, "read", 3, "ok", "x", (), None, 4),
    ]
    root = ElementTree.fromstring(render_picture(judge(history).violations[0]))
    bars = [each for each in root.iter("{http://www.w3.org/2000/svg}rect") if each.get("class")]
    assert [each.get("class") for each in bars] == ["unknown", "ok", "offending"]
    tops = [each.get("y") for each in bars]
    assert tops[0] != tops[1] == tops[2]


def test_no_violation_is_no_picture(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(GOOD)
    picture = file.with_suffix(".svg")
    assert main(["verify", "history", str(file), "--picture", str(picture)]) == 0
    assert not picture.exists()
    assert "is not written" in capsys.readouterr().err


def test_verify_without_a_command_is_for_a_cluster(capsys: pytest.CaptureFixture[str]) -> None:
    """What begins with an option or a URL goes where it went before there were histories."""
    for arguments in (["--bogus"], ["http://127.0.0.1:1", "--bogus"], ["cluster", "--bogus"]):
        assert main(["verify", *arguments]) == 2
        assert "noctule verify cluster --help" in capsys.readouterr().err
    assert main(["verify", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "history" in shown
    assert "cluster" in shown
