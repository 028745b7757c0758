"""Clients that nobody here wrote, against the RESP door: redis-cli, redis-benchmark, and redis-py in all its forms."""

import asyncio
import re
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import redis
import redis.asyncio
from engines import engine_or_skip
from resp_served import Served, serving

pytestmark = pytest.mark.integration


@pytest.fixture(params=["asyncio", "uvloop"])
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    with serving(request.param) as server:
        yield server


def run(program: str, served: Served, *args: str, stdin: str = "") -> str:
    """What a Redis program prints; it must end well and say nothing on stderr."""
    path = engine_or_skip(program)
    done = subprocess.run(
        [path, "-h", "127.0.0.1", "-p", str(served.port), *args],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


@pytest.mark.parametrize("protocol", [["-2"], ["-3"]])
def test_redis_cli(served: Served, protocol: list[str]) -> None:
    def cli(*args: str, stdin: str = "") -> str:
        return run("redis-cli", served, *protocol, *args, stdin=stdin)

    assert cli("SET", "k", "v 1") == "OK\n"
    assert cli("GET", "k") == "v 1\n"
    assert cli("GET", "none") == "\n"
    assert cli("HSET", "h", "a", "1", "b", "2") == "2\n"
    assert cli("HGETALL", "h").split() == (["a", "1", "b", "2"])
    assert cli("-x", "SET", "x", stdin="from stdin") == "OK\n"
    assert cli("GET", "x") == "from stdin\n"
    assert cli("NOPE").startswith("ERR unknown command 'NOPE'")
    assert cli(stdin="SET a 1\nINCR a\nGET a\n").split() == ["OK", "2", "2"]
    assert "redis_version:7.4.0" in cli("INFO")
    cli("MSET", *[word for number in range(500) for word in (f"scan:{number}", "v")])
    found = cli("--scan", "--pattern", "scan:*").split()
    assert sorted(found) == sorted(f"scan:{number}" for number in range(500))


def test_redis_cli_pipe_mode(served: Served) -> None:
    """--pipe sends everything, then an ECHO of its own, and reads until that comes back."""
    commands = "".join(f"SET pipe:{number} {number}\r\n" for number in range(2_000))
    assert "errors: 0, replies: 2000" in run("redis-cli", served, "--pipe", stdin=commands)
    assert run("redis-cli", served, "GET", "pipe:1999") == "1999\n"


def test_redis_benchmark(served: Served) -> None:
    options = ("-t", "set,get,incr,hset,mset", "-n", "2000", "-c", "20", "-P", "16", "-q")
    printed = run("redis-benchmark", served, *options)
    measured = re.findall(r"(\w+)[^:\r\n]*: [0-9.]+ requests per second", printed)
    assert measured == ["SET", "GET", "INCR", "HSET", "MSET"], printed
    assert "rror" not in printed
    assert served.server.commands_total >= 5 * 2_000


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("decode", [False, True])
def test_redis_py(served: Served, protocol: int, decode: bool) -> None:
    def text(value: str) -> Any:
        return value if decode else value.encode()

    with redis.Redis(port=served.port, protocol=protocol, decode_responses=decode) as client:
        assert client.ping() is True
        assert client.set("k", "v", ex=100) is True
        assert client.get("k") == text("v")
        assert client.get("none") is None
        assert 98 <= client.ttl("k") <= 100
        assert client.hset("h", mapping={"a": "1", "b": "2"}) == 2
        assert client.hgetall("h") == {text("a"): text("1"), text("b"): text("2")}
        assert client.incrbyfloat("f", 1.5) == 1.5
        assert client.mget("k", "none") == [text("v"), None]
        assert set(client.scan_iter(match="[kh]")) == {text("k"), text("h")}
        assert client.info()["redis_version"] == "7.4.0"
        assert client.info("keyspace")["db0"]["keys"] == 3
        assert client.config_get("save") == {"save": ""}
        assert client.command_count() > 50
        assert client.command()["get"]["arity"] == 2
        assert client.client_setname("bob")
        (line,) = client.client_list()
        assert (line["name"], line["lib-name"].split("(")[0]) == ("bob", "redis-py")
        assert client.client_id() == int(line["id"])
        assert abs(client.time()[0] - served.store._clock.wall_ms() / 1_000) < 5
        assert client.wait(1, 10) == 0
        assert client.echo("x" * 100_000) == text("x" * 100_000)
        with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
            client.incr("h")
        with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
            client.get("h")


def test_redis_py_pipelines(served: Served) -> None:
    with redis.Redis(port=served.port) as client:
        pipeline = client.pipeline(transaction=False)
        for number in range(20_000):
            pipeline.set(f"k{number % 100}", number)
            pipeline.incr("counter")
        replies = pipeline.execute()
        assert replies[::2] == [True] * 20_000
        assert replies[1::2] == list(range(1, 20_001))
        pipeline.hset("h", "a", 1).incr("h").get("counter")
        first, second, third = pipeline.execute(raise_on_error=False)
        assert (first, third) == (1, b"20000")
        assert isinstance(second, redis.ResponseError)


@pytest.mark.parametrize("protocol", [2, 3])
def test_redis_py_async(served: Served, protocol: int) -> None:
    async def talk() -> None:
        async with redis.asyncio.Redis(port=served.port, protocol=protocol, decode_responses=True) as client:
            assert await client.ping()
            counts = await asyncio.gather(*[client.incr("n") for _ in range(50)])
            assert sorted(counts) == list(range(1, 51))
            pipeline = client.pipeline(transaction=False)
            for number in range(1_000):
                pipeline.hset("h", str(number), number)
            assert await pipeline.execute() == [1] * 1_000
            everything = await client.hgetall("h")
            assert everything == {str(number): str(number) for number in range(1_000)}
            assert [key async for key in client.scan_iter()] != []

    asyncio.run(talk())


def test_a_value_over_the_bound_is_an_error_the_client_can_read(served: Served) -> None:
    with redis.Redis(port=served.port) as client:
        with pytest.raises(redis.ResponseError, match="VALUE_BYTES_MAX is 8388608"):
            client.set("k", b"v" * 20_000_000)
        assert client.set("k", b"v" * 8_388_608) is True
        assert client.strlen("k") == 8_388_608
