"""Every scenario gives exactly the output below its commands; README.md tells how to read and change one."""

from pathlib import Path

import pytest

from noctule.base.errors import RequestError
from noctule.verify.sim.transcript import COMMANDS, TABLES, replay

FOLDER = Path(__file__).parent
SCENARIOS = sorted(FOLDER.glob("*.txt"))


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_scenario(path: Path, request: pytest.FixtureRequest) -> None:
    expected = path.read_text(encoding="utf-8")
    found = replay(expected)
    if request.config.getoption("--rewrite-transcripts"):
        path.write_text(found, encoding="utf-8")
        return
    assert found == expected, "read the difference; if it is meant: pytest tests/transcripts --rewrite-transcripts"


def test_there_are_scenarios_and_each_says_what_it_shows() -> None:
    assert len(SCENARIOS) >= 25
    assert [path.name for path in SCENARIOS if not path.read_text(encoding="utf-8").startswith("# ")] == []


def test_output_that_is_wrong_is_found() -> None:
    text = "nodes 3\ncampaign 1\n----\n1 is leader in term 1, leader 1\n"
    assert replay(text) != text
    assert replay(replay(text)) == replay(text)


def test_every_command_is_told_and_used() -> None:
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    used = {line.split()[0] for path in SCENARIOS for line in path.read_text(encoding="utf-8").splitlines() if line}
    for name in [*COMMANDS, *TABLES]:
        assert f"| `{name}" in readme, name
        assert name in used, name


@pytest.mark.parametrize(
    ("commands", "sentence"),
    [
        ("propose 1 a", "'propose 1 a': comes before `nodes`"),
        ("nodes 3\nfly 1", "'fly 1': is no command"),
        ("nodes 3\ncrash 9", "'crash 9': node 9 is not in the group: its members are 1, 2, 3"),
        ("nodes 3\ncrash 1\npropose 1 a", "'propose 1 a': node 1 is down: start it first"),
        ("nodes 3\ncrash one", "'crash one': 'one' is not a number"),
        ("nodes 0", "'nodes 0': takes at least one node"),
        ("nodes 3\npropose 1", "'propose 1': takes data"),
        ("nodes 3\ncrash", "'crash': takes at least 1 number"),
        ("nodes 3\nread 1", "'read 1': takes at least 2 numbers"),
        ("nodes 3\ntick", "'tick': takes at least 1 number"),
        ("nodes 3\ntransfer 1", "'transfer 1': takes two numbers"),
        ("nodes 3 colour=2", "'nodes 3 colour=2': colour is no bound"),
        ("nodes 3\nstart 1 terms=1,2 term=1", "a node with an entry of term 2 is not in term 1"),
        ("nodes 3\ncompact 1 4", "node 1 cannot compact to 4: it has applied 0"),
        ("nodes 1\ncampaign 1\ncampaign 1", "node 1 leads already"),
    ],
)
def test_a_command_that_makes_no_sense_is_refused_in_one_line(commands: str, sentence: str) -> None:
    with pytest.raises(RequestError) as caught:
        replay(commands)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
