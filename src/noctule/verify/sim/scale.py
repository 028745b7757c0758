"""`python -m noctule.verify.sim.scale`: what many nodes and many partitions cost, and that they form, fail and grow.

A simulation, in one process: the rules are those that run in production (Raft, carrier, router, steward, placement,
liveness, recovery), the network, the disks and the clock are not. What is told is messages, bytes and processor time of
this process; nothing is said of how fast real disks and networks are.
"""

import argparse
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from noctule.base.ids import META_GROUP
from noctule.core.keyspace.reply import Reply
from noctule.core.meta import operations
from noctule.core.roster.members import PRESENT
from noctule.verify.sim.invariants import LivenessViolation
from noctule.verify.sim.world import World

FACTOR = 3
RACKS = 10
REPLICAS_PER_NODE = 300
PHASE_S_MAX = 300.0
"""So many simulated seconds may pass before something is given up."""
LOOK_S = 0.25
SETTLE_S = 15.0
"""After which what was told once has been told, and the groups sleep."""
LOAD_PER_NODE = 20
"""Writes in a second on each node: a small load."""
RESTARTS = 20
DOWN_S = 0.4
"""How long a machine is down that is started anew."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one node in one simulated second, as a mean over all nodes."""

    nodes: int
    partitions: int
    frames: float
    messages: float
    bytes: float
    processor_ms: float


class Cluster:
    """A world that is not watched step by step, and how it is driven."""

    def __init__(self, node_count: int, partition_count: int, seed: int = 1) -> None:
        self.world = World(
            seed,
            node_count=node_count,
            partition_count=partition_count,
            clients=0,
            replication_factor=FACTOR,
            is_watched=False,
            rack_count=min(RACKS, node_count),
            settings={"rebalance_enabled": False, "migrations_concurrent_max": 100},
        )
        self.partition_count = partition_count
        self.answered = 0

    def until(self, what: str, condition: Callable[[], bool]) -> float:
        """Let time pass until something is so; returns how many simulated seconds that took."""
        begun = self.world.time.now()
        while not condition():
            if self.world.time.now() > begun + PHASE_S_MAX:
                raise LivenessViolation(f"{what}: not within {PHASE_S_MAX} s")
            self.world.time.run_until(self.world.time.now() + LOOK_S)
        return self.world.time.now() - begun

    def pass_time(self, duration_s: float) -> None:
        """Let time pass."""
        self.world.time.run_until(self.world.time.now() + duration_s)

    def serves_all(self) -> bool:
        """Whether every partition has a leader that has a majority, as its own machine sees it."""
        led = {
            group
            for machine in self.world.machines.values()
            if machine.alive
            for group in machine.carrier.leaders.led_by(machine.node_id)
            if machine.replicas[group].raft.is_leader()
        }
        return len(led - {META_GROUP}) == self.partition_count

    def measure(self, duration_s: float, load_per_node: int = 0) -> Cost:
        """What a node costs meanwhile, with so many writes in a second by way of each."""
        network, alive = self.world.network, [m for m in self.world.machines.values() if m.alive]
        before, begun = (network.frames, network.messages, network.bytes), time.process_time()
        for machine in alive if load_per_node else ():
            self._write(machine.node_id, 0, 1 / load_per_node, self.world.time.now() + duration_s)
        self.pass_time(duration_s)
        spent = time.process_time() - begun
        after = (network.frames, network.messages, network.bytes)
        per = duration_s * len(alive)
        frames, messages, size = ((there - here) / per for here, there in zip(before, after, strict=True))
        return Cost(len(alive), self.partition_count, frames, messages, size, spent * 1000 / per)

    def _write(self, node: int, number: int, interval_s: float, until: float) -> None:
        machine, now = self.world.machines[node], self.world.time.now()
        if now < until and machine.alive:
            key = b"key:%d:%d" % (node, number)
            machine.submit([b"SET", key, b"x" * 100], self)
            self.world.time.after(interval_s, lambda: self._write(node, number + 1, interval_s, until))

    def deliver(self, reply: Reply) -> None:
        """Count an answer."""
        self.answered += reply == b"OK" or getattr(reply, "text", b"") == b"OK"

    # Phases ----------------------------------------------------------------------------------------------------------

    def form(self) -> float:
        """Until all partitions are where they belong, and served."""
        return self.until("formation", lambda: self.serves_all() and self.world.is_whole())

    def restart(self, node: int) -> None:
        """Kill a machine, and start it anew."""
        self.world.crash(node)
        self.pass_time(DOWN_S)
        self.world.restart(node)
        self.pass_time(DOWN_S)

    def lose_rack(self) -> tuple[float, float]:
        """All machines of one rack lose power: how long until all partitions are served, and how long until all is
        whole once they are back."""
        meta = self.world.meta
        assert meta is not None
        lost = [node for node, member in sorted(meta.roster.items()) if member.labels.get("rack") == "rack-1"]
        for node in lost:
            self.world.crash(node, power=True)
        served_s = self.until("a rack is lost", self.serves_all)
        for node in lost:
            self.world.restart(node)
        return served_s, self.until("the rack is back", self.world.is_whole)

    def grow(self, count: int) -> float:
        """Nodes join: how long until they are in."""
        wanted = len(self.world.nodes) + count
        for _ in range(count):
            self.world.operators.join()
        return self.until("nodes join", lambda: len(self.world.nodes) == wanted and self.world.is_whole())

    def rebalance(self) -> tuple[float, int]:
        """Replicas are moved to the new nodes: how long until no node holds over a tenth more than its share."""
        self.world.operators.ask(operations.ChangeSettings({"rebalance_enabled": True}))

        def is_balanced() -> bool:
            held, share = self.held()
            return max(held.values()) <= 1.1 * share + 1 and min(held.values()) >= 0.9 * share - 1

        took_s = self.until("rebalance", is_balanced)
        self.world.operators.ask(operations.ChangeSettings({"rebalance_enabled": False}))
        meta = self.world.meta
        assert meta is not None
        return took_s, meta.counters.migration_id_next - 1

    def held(self) -> tuple[dict[int, int], float]:
        """How many partitions each member holds, and its fair share."""
        meta = self.world.meta
        assert meta is not None
        present = [node for node, member in meta.roster.items() if member.state in PRESENT]
        return {node: len(meta.held_by.get(node, ())) for node in present}, self.partition_count * FACTOR / len(present)


def growth(node_counts: tuple[int, ...], replicas_per_node: int) -> list[tuple[Cost, Cost]]:
    """What a node costs idle and under a small load, for clusters of so many nodes, with as much on each of them."""
    costs = []
    for count in node_counts:
        cluster = Cluster(count, count * replicas_per_node // FACTOR)
        cluster.form()
        cluster.pass_time(SETTLE_S)
        costs.append((cluster.measure(5.0), cluster.measure(5.0, LOAD_PER_NODE)))
    return costs


def _line(cost: Cost, what: str) -> str:
    return (
        f"{cost.nodes:>5} {cost.partitions:>7} {what:<5} {cost.frames:>8.0f} {cost.messages:>9.0f} "
        f"{cost.bytes / 1000:>9.1f} {cost.processor_ms:>9.2f}"
    )


def main() -> int:
    """Tell what it costs to grow, then drive the largest cluster through its life."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=100, help="of the largest cluster")
    parser.add_argument("--partitions", type=int, default=10_000, help="of the largest cluster")
    parser.add_argument("--new-nodes", type=int, default=20, help="that join it")
    parser.add_argument("--restarts", type=int, default=RESTARTS, help="machines that are started anew, one by one")
    parser.add_argument("--growth", action=argparse.BooleanOptionalAction, default=True, help="the table before that")
    options = parser.parse_args()
    print("simulated: the rules that run in production, on a simulated network and simulated disks, in one process")
    if options.growth:
        counts = tuple(count for count in (3, 10, 30) if count < options.nodes)
        print("per node and simulated second, with 300 replicas on each node:")
        print("nodes   parts       frames  messages     kB      processor ms")
        for idle, load in growth(counts, REPLICAS_PER_NODE):
            print(_line(idle, "idle"), _line(load, "load"), sep="\n", flush=True)
    begun = time.process_time()

    def tell(what: str) -> None:
        peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        print(f"{what} [{time.process_time() - begun:.0f} s of a processor, {peak_gb:.2f} GB]", flush=True)

    cluster = Cluster(options.nodes, options.partitions)
    tell(f"{options.nodes} nodes with {options.partitions} partitions are formed in {cluster.form():.1f} s")
    cluster.pass_time(SETTLE_S)
    print(_line(cluster.measure(5.0), "idle"), _line(cluster.measure(5.0, LOAD_PER_NODE), "load"), sep="\n")
    tell(f"{cluster.answered} writes were answered")
    for node in cluster.world.founders[: options.restarts]:
        cluster.restart(node)
    restarted_s = cluster.until("restarts", lambda: cluster.serves_all() and cluster.world.is_whole())
    tell(f"{options.restarts} machines started anew, all is whole {restarted_s:.1f} s after the last")
    served_s, whole_s = cluster.lose_rack()
    tell(f"a rack is lost: all is served after {served_s:.1f} s, and whole {whole_s:.1f} s after it is back")
    tell(f"{options.new_nodes} nodes have joined in {cluster.grow(options.new_nodes):.1f} s")
    took_s, moves = cluster.rebalance()
    tell(f"balanced in {took_s:.1f} s by {moves} moves")
    return 0


if __name__ == "__main__":
    sys.exit(main())
