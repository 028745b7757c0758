"""COMMAND against that of a real Redis 7.0: where clients find keys, whom they ask, and how they add up answers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from engines import RedisServer
from resp_served import serving

pytestmark = pytest.mark.integration

NEWER = {"client|kill", "client|no-touch", "client|setinfo", "cluster|myshardid"}
"""What came after 7.0."""


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Ours and Redis', by name, with what DOCS says of the group."""
    directory: Path = tmp_path_factory.mktemp("redis")
    theirs = RedisServer(directory)
    theirs.start()
    try:
        with serving("asyncio") as served:
            yield table_of(served.port), table_of(theirs.port)
    finally:
        theirs.kill()


def table_of(port: int) -> dict[str, Any]:
    with redis.Redis(port=port, protocol=3, decode_responses=True) as client:
        for name in ("COMMAND", "COMMAND DOCS"):
            client.set_response_callback(name, lambda reply, **_: reply)
        docs = client.execute_command("COMMAND DOCS")
        return {row[0]: [*row, docs[row[0]]["group"]] for row in client.execute_command("COMMAND")}


def differences(tables: tuple[dict[str, Any], dict[str, Any]], column: int) -> dict[str, tuple[Any, Any]]:
    ours, theirs = tables
    found = {}
    for name in sorted(ours.keys() & theirs.keys()):
        mine, other = ours[name][column], theirs[name][column]
        if isinstance(mine, (list, set)):
            mine, other = sorted(mine), sorted(other)
        if mine != other:
            found[name] = (mine, other)
    return found


@pytest.mark.parametrize(
    ("column", "what"),
    [
        (1, "arity"),
        (2, "flags"),
        (3, "first key"),
        (4, "last key"),
        (5, "key step"),
        (6, "categories"),
        (7, "tips"),
        (10, "group"),
    ],
)
def test_a_column_is_that_of_redis(tables: tuple[dict[str, Any], dict[str, Any]], column: int, what: str) -> None:
    assert differences(tables, column) == {}, what
    assert len(tables[0].keys() & tables[1].keys()) > 70


def test_key_specs_are_where_those_of_redis_are(tables: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """What is done to the keys is told in fewer words here, and two specs may be one; the places are the same."""
    ours, theirs = tables
    for name in sorted(ours.keys() & theirs.keys()):
        mine, other = ours[name][8], theirs[name][8]
        begins = [(each["begin_search"], each["find_keys"]["type"]) for each in mine]
        assert bool(mine) == bool(other), name
        if len(mine) == len(other) == 1:
            assert begins == [(other[0]["begin_search"], other[0]["find_keys"]["type"])], name
            assert mine[0]["find_keys"]["spec"] == other[0]["find_keys"]["spec"], name


def test_subcommands_have_the_arity_and_the_tips_of_redis(tables: tuple[dict[str, Any], dict[str, Any]]) -> None:
    ours, theirs = tables
    for name in sorted(ours.keys() & theirs.keys()):
        mine = {row[0]: (row[1], sorted(row[7])) for row in ours[name][9]}
        other = {row[0]: (row[1], sorted(row[7])) for row in theirs[name][9]}
        shared = mine.keys() & other.keys() - NEWER
        assert {each: mine[each] for each in shared} == {each: other[each] for each in shared}


@pytest.mark.parametrize(("name", "count"), [("xgroup", 5), ("xinfo", 3), ("object", 4), ("memory", 1)])
def test_subcommands_about_a_key_are_those_of_redis(
    tables: tuple[dict[str, Any], dict[str, Any]], name: str, count: int
) -> None:
    mine, other = ({row[0]: row for row in table[name][9]} for table in tables)
    assert len(mine) == count
    for each, row in mine.items():
        for column in (1, 2, 3, 4, 5, 6, 7):
            theirs = other[each][column]
            assert (sorted(row[column]) if isinstance(theirs, (list, set)) else row[column]) == (
                sorted(theirs) if isinstance(theirs, (list, set)) else theirs
            ), (each, column)
        assert row[8][0]["begin_search"] == other[each][8][0]["begin_search"]


def test_a_client_finds_every_key(tables: tuple[dict[str, Any], dict[str, Any]], tmp_path: Path) -> None:
    """As redis-py's cluster client asks for the keys of commands that are flagged so."""
    theirs = RedisServer(tmp_path)
    theirs.start()
    try:
        with serving("asyncio") as served:
            here, there = redis.Redis(port=served.port), redis.Redis(port=theirs.port)
            for line in (
                "MGET a b c",
                "MSET a 1 b 2",
                "RENAME a b",
                "EVAL return 2 a b c",
                "EVAL return 0",
                "ZUNIONSTORE to 2 a b WEIGHTS 1 2",
                "ZUNION 2 a b",
                "LMPOP 2 a b LEFT",
                "BLMPOP 0 2 a b LEFT",
                "XREAD COUNT 2 STREAMS a b 0 0",
                "XREADGROUP GROUP g c STREAMS a b > >",
                "SORT a STORE b",
                "XGROUP CREATE a g $",
                "OBJECT ENCODING a",
                "SINTERCARD 2 a b",
            ):
                name = line.split()[0].lower()
                if name in tables[0]:
                    words = ("COMMAND GETKEYS", *line.split())
                    assert here.execute_command(*words) == there.execute_command(*words), line
            here.close()
            there.close()
    finally:
        theirs.kill()
