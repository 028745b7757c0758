"""`python -m noctule.verify.sim.speed`: how many seconds five nodes under load live in one second of a processor.

The load is told beside it, for a cluster that has nothing to do is quick to simulate. Invariants are checked as always.
Measured in processor time, so it says the same on a busy machine.
"""

import argparse
import sys
import time
from dataclasses import dataclass

from noctule.verify.sim.world import World

NODES, CLIENTS = 5, 8
THINK_S_MAX = 0.3
"""Between an answer and the client's next command; eight clients then do about 50 operations a second."""


@dataclass(frozen=True, slots=True)
class Speed:
    """What was measured."""

    simulated_s: float
    processor_s: float
    operations: int

    @property
    def simulated_s_per_s(self) -> float:
        """Simulated seconds in a second of one processor."""
        return self.simulated_s / self.processor_s

    @property
    def operations_per_simulated_s(self) -> float:
        """The load."""
        return self.operations / self.simulated_s


def measure(simulated_s: float, *, faults: bool, seed: int = 1, think_s_max: float = THINK_S_MAX) -> Speed:
    """Run one world; with faults to its judged end, without them for so long. Raises what a broken world raises."""
    started = time.process_time()
    world = World(seed, node_count=NODES, clients=CLIENTS, think_s_max=think_s_max)
    if faults:
        world.run(fault_s=simulated_s)
    else:
        world.time.run_until(simulated_s)
    return Speed(world.time.now(), time.process_time() - started, world.workload.done)


def main() -> int:
    """Measure both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--simulated-s", type=float, default=60.0, help="how long each world lives")
    parser.add_argument("--think-s-max", type=float, default=THINK_S_MAX, help="less is more load")
    parser.add_argument("--worlds", type=int, default=3, help="how many are measured with faults")
    options = parser.parse_args()
    for faults, seeds in ((False, [1]), (True, range(1, options.worlds + 1))):
        each = [
            measure(options.simulated_s, faults=faults, seed=seed, think_s_max=options.think_s_max) for seed in seeds
        ]
        speed = Speed(
            sum(one.simulated_s for one in each),
            sum(one.processor_s for one in each),
            sum(one.operations for one in each),
        )
        print(
            f"{NODES} nodes, {CLIENTS} clients, {'with' if faults else 'without'} faults: "
            f"{speed.simulated_s_per_s:.0f} simulated seconds per second of a processor, "
            f"at {speed.operations_per_simulated_s:.0f} operations per simulated second"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
