"""What the OAuth 2 kit does under stress: one token refreshed a thousand times at once while a leader is killed, how
soon a revocation is refused on every instance, and what the check of an access token costs.

Three instances of the kit in this process, on a cluster of three nodes. The method stands in README.md beside this
file. Exit code 1: a token had two successors, or a revoked one was let in.
"""

import argparse
import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
from machine import Distribution, Machine, describe, distribution, look_at_machine
from script import add_json_option, positive_count, run_script, write_json
from subjects import NoctuleCluster, bench_folder, noctule_cluster

from noctule.adapters.system_clock import SystemClock
from noctule.base.errors import OutcomeUnknownError, UnavailableError
from noctule.base.ids import GroupId
from noctule.cli import output
from noctule.core.placement.slots import key_slot, partition_table
from noctule.kits.jwt.access_tokens import AccessTokens
from noctule.kits.jwt.app_keys import AppKeys
from noctule.kits.jwt.key_ring import SigningKeyRing
from noctule.kits.jwt.ring_state import ALGORITHMS, Algorithm, RingPolicy
from noctule.kits.oauth2.checks import Checks
from noctule.kits.oauth2.clients import Client
from noctule.kits.oauth2.errors import InvalidTokenError
from noctule.kits.oauth2.grants import Answer, Grants, GrantTimes, Issue
from noctule.kits.oauth2.messages import AuthorizationRequest
from noctule.kits.oauth2.revocations import Revocations
from noctule.kits.store import connect

INSTANCES = 3
CONNECTIONS = 60
"""Open before a round begins, so that the refreshes meet in the store."""
LOOK_S = 0.0005
"""How often it is looked whether a token is refused; a tighter loop would take the processor from the nodes."""
ISSUER, AUDIENCE, URI = "https://id.example", "https://api.example", "https://app.example/"
SECRET = "of the bench, and long enough to be one"
CLIENT = Client("app", redirect_uris=(URI,))
TIMES = GrantTimes(grace_s=120)


class Options(msgspec.Struct, frozen=True):
    """What was asked for."""

    refreshes: int
    kills: int
    revocations: int
    checks: int


class Round(msgspec.Struct, frozen=True):
    """One token, refreshed by all at once."""

    killed_node: int
    seconds: float
    """Until the last of them was answered."""
    retried: int
    """Answers of "the store is away", after which a client asked again."""
    successors: int
    """Different answers: 1 is right."""


class CheckRow(msgspec.Struct, frozen=True):
    """One way of checking a token."""

    name: str
    microseconds: float


class Report(msgspec.Struct, frozen=True):
    """What ``--json`` writes."""

    machine: Machine
    options: Options
    rounds: list[Round]
    refused_everywhere: Distribution
    """From the acknowledgement of a revocation to its refusal on the last of the instances."""
    checks: list[CheckRow]
    faults: list[str]


@dataclass
class Instance:
    """The kit of one app instance."""

    grants: Grants
    tokens: AccessTokens
    revocations: Revocations

    async def answer(self) -> Answer:
        """What makes the answer to a refresh."""
        signer = await self.tokens.signer()

        def make(issue: Issue, refresh_token: str | None) -> bytes:
            text = signer.sign(
                subject=issue.meta.subject,
                client_id=issue.client_id,
                audience=AUDIENCE,
                scopes=(),
                family=issue.family,
                position=issue.position,
                now_ms=issue.now_ms,
                life_s=TIMES.access_s,
            )
            return msgspec.json.encode({"access_token": text, "refresh_token": refresh_token})

        return make

    async def sign_in(self, subject: str) -> dict[str, str]:
        """The tokens of a new family."""
        request = AuthorizationRequest(CLIENT, URI, (), None, "challenge", AUDIENCE)
        code = await self.grants.save_code(request, subject, ())
        given = await self.grants.exchange(code, CLIENT.id, URI, "challenge", await self.answer(), refreshes=True)
        return msgspec.json.decode(given, type=dict[str, str])

    async def aclose(self) -> None:
        """Close all of it."""
        await self.revocations.aclose()
        await self.grants.store.aclose()


def main() -> int:
    """Measure, verify and report."""
    parser = argparse.ArgumentParser(description="Refresh, revoke and check tokens while leaders are killed.")
    parser.add_argument("--refreshes", type=positive_count, default=1_000, help="of one token at once (default 1000)")
    parser.add_argument("--kills", type=positive_count, default=5, help="one in each round (default 5)")
    parser.add_argument("--revocations", type=positive_count, default=500, help="one after the other (default 500)")
    parser.add_argument("--checks", type=positive_count, default=20_000, help="of each way (default 20000)")
    add_json_option(parser)
    arguments = parser.parse_args()
    options = Options(arguments.refreshes, arguments.kills, arguments.revocations, arguments.checks)
    with bench_folder() as folder:
        machine = look_at_machine(folder)
        output.say(describe(machine))
        with noctule_cluster(folder, 3) as cluster:
            report = asyncio.run(measure(cluster, machine, options))
    show(report)
    if arguments.json is not None:
        write_json(arguments.json, report)
    return output.FAILED if report.faults else 0


async def measure(cluster: NoctuleCluster, machine: Machine, options: Options) -> Report:
    """All three parts on the same instances; the kills come last."""
    hosts = ",".join(f"{node.host}:{node.resp_port}" for node in cluster.nodes)
    instances = [new_instance(f"redis://{hosts}/0") for _ in range(INSTANCES)]
    faults: list[str] = []
    try:
        for instance in instances:
            await instance.revocations.wait_fresh(30.0)
        checks = await time_checks(instances[0], options.checks)
        latencies = [await time_revocation(instances, f"user{number}") for number in range(options.revocations)]
        output.say(f"{options.revocations} revocations are refused everywhere")
        rounds = []
        for number in range(options.kills):
            measured = await refresh_at_once(cluster, instances, f"many{number}", options.refreshes, faults)
            rounds.append(measured)
            output.say(
                f"kill {number + 1} of {options.kills}: {measured.successors} successor, {measured.seconds:.2f} s"
            )
            await asyncio.to_thread(cluster.wait_recovered)
    finally:
        for instance in instances:
            await instance.aclose()
    return Report(machine, options, rounds, distribution(latencies), checks, faults)


def new_instance(url: str) -> Instance:
    """One app instance."""
    store = connect(url)
    ring = SigningKeyRing(store, AppKeys([SECRET]))
    grants = Grants(store, times=TIMES)
    tokens = AccessTokens(ring, issuer=ISSUER, audience=AUDIENCE)
    return Instance(grants, tokens, Revocations(grants, staleness_s_max=30.0))


async def refresh_at_once(
    cluster: NoctuleCluster, instances: list[Instance], subject: str, count: int, faults: list[str]
) -> Round:
    """Refresh one token from all instances, and kill the leader of its partition once the first is answered."""
    given = await instances[0].sign_in(subject)
    for instance in instances:
        await asyncio.gather(*(instance.grants.store.ping() for _ in range(CONNECTIONS)))
    victim, pid = await asyncio.to_thread(leader_of, cluster, instances[0].grants, subject)
    answered = retried = 0

    async def client(number: int) -> bytes:
        nonlocal answered, retried
        instance = instances[number % INSTANCES]
        while True:
            try:
                answer = await instance.grants.rotate(given["refresh_token"], CLIENT.id, await instance.answer())
            except (UnavailableError, OutcomeUnknownError):
                retried += 1
            else:
                answered += 1
                return answer

    begun = time.perf_counter()
    tasks = [asyncio.create_task(client(number)) for number in range(count)]
    while not answered:
        await asyncio.sleep(0)
    os.kill(pid, signal.SIGKILL)
    answers = set(await asyncio.gather(*tasks))
    seconds = time.perf_counter() - begun
    if len(answers) != 1:
        faults.append(f"one token had {len(answers)} successors")
    return Round(victim, round(seconds, 3), retried, len(answers))


def leader_of(cluster: NoctuleCluster, grants: Grants, subject: str) -> tuple[int, int]:
    """The node, and its process, that leads the partition in which everything of this subject is."""
    slot = key_slot(grants.log_key(grants.shard(subject)).encode())
    partition = GroupId(partition_table(len(cluster.partitions()))[slot])
    for node in cluster.nodes:
        picture = cluster.picture(node)
        if any(group.id == partition and group.role == "leader" for group in picture.groups):
            return node.id, picture.pid
    raise UnavailableError(f"nobody leads partition {partition}")


async def time_revocation(instances: list[Instance], subject: str) -> float:
    """Milliseconds from the acknowledgement of a revocation to its refusal on every instance."""
    given = await instances[0].sign_in(subject)
    tokens = [await instance.tokens.verify(given["access_token"]) for instance in instances]
    await instances[0].grants.revoke_subject(subject)
    begun = time.perf_counter()

    async def until_refused(instance: Instance, token_number: int) -> None:
        while instance.revocations.check(tokens[token_number]):
            await asyncio.sleep(LOOK_S)

    await asyncio.gather(*(until_refused(instance, number) for number, instance in enumerate(instances)))
    return (time.perf_counter() - begun) * 1000


async def time_checks(instance: Instance, count: int) -> list[CheckRow]:
    """A token that this instance knows, tokens that it does not, and one that the store is asked about."""
    rows = []
    given = await instance.sign_in("checked")
    text = given["access_token"]
    for mode, number in (("jwt", count), ("hybrid", count), ("server", count // 20 + 1)):
        checks = Checks(instance.tokens, mode, revocations=instance.revocations, grants=instance.grants)  # type: ignore[arg-type]
        microseconds = await time_calls(partial(checks.check, text), number)
        rows.append(CheckRow(f"{mode}, a token that was verified before", microseconds))
    rows += [await time_first_checks(instance, alg, count // 20 + 1) for alg in ALGORITHMS]
    try:
        await instance.tokens.verify(text[:-4] + "AAAA")
    except InvalidTokenError:
        return rows
    raise UnavailableError("a forged token was believed")


async def time_first_checks(instance: Instance, alg: Algorithm, count: int) -> CheckRow:
    """Of tokens that differ."""
    ring = SigningKeyRing(instance.grants.store, AppKeys([SECRET]), policy=RingPolicy(alg=alg), prefix=f"bench-{alg}")
    tokens = AccessTokens(ring, issuer=ISSUER, audience=AUDIENCE)
    signer = await tokens.signer()
    claims: dict[str, Any] = {"subject": "s", "client_id": "c", "audience": AUDIENCE, "scopes": (), "family": ""}
    now_ms = SystemClock().wall_ms()
    new = iter([signer.sign(**claims, position="0-0", now_ms=now_ms, life_s=600) for _ in range(count)])
    return CheckRow(f"{alg}, a token seen first", await time_calls(lambda: tokens.verify(next(new)), count))


async def time_calls(call: Callable[[], Awaitable[object]], count: int) -> float:
    """Microseconds of one."""
    begun = time.perf_counter()
    for _ in range(count):
        await call()
    return round((time.perf_counter() - begun) / count * 1e6, 2)


def show(report: Report) -> None:
    """The tables, to stdout."""
    print(f"{report.options.refreshes} refreshes of one token at once, its leader killed in the middle")
    for each in report.rounds:
        print(f"  {each.successors} successor, all answered after {each.seconds:.2f} s, {each.retried} asked again")
    output.print_table(
        f"{report.options.revocations} revocations",
        ("", "p50 ms", "p99 ms", "max ms"),
        [("acknowledged to refused on every instance", *report.refused_everywhere.cells())],
    )
    print(f"{'the check of an access token':<50} {'µs':>8}")
    for row in report.checks:
        print(f"{row.name:<50} {row.microseconds:>8.1f}")
    for fault in report.faults:
        print(fault)
    print(describe(report.machine))


if __name__ == "__main__":
    run_script(main)
