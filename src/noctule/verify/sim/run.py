"""`python -m noctule.verify.sim.run`: many seeds, one line for what failed and the command that replays it.

Exit codes: 0 all held, 10 safety violated, 11 no progress after healing, 12 crashed.
"""

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

from noctule.verify.checkers.history import write_history
from noctule.verify.sim.invariants import LivenessViolation, SafetyViolation
from noctule.verify.sim.world import Outcome, World

EXIT_SAFETY, EXIT_LIVENESS, EXIT_CRASH = 10, 11, 12


def run_seed(seed: int) -> Outcome:
    """One world from one seed; 3 nodes, or 5 for every fourth seed."""
    return world_of(seed).run()


def world_of(seed: int) -> World:
    """The world of a seed, not run yet; its `history` is there also when the run then fails."""
    return World(seed, node_count=5 if seed % 4 == 3 else 3)


def main() -> int:
    """Run the seeds that the arguments name."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, help="how many seeds")
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--seed", type=int, help="replay this one")
    parser.add_argument("--history", type=Path, help="write what the clients of --seed were answered into this file")
    options = parser.parse_args()
    if options.history and options.seed is None:
        parser.error("--history needs --seed: a history is of one world")
    seeds = [options.seed] if options.seed is not None else range(options.first, options.first + options.seeds)
    started = time.monotonic()
    total: Counter[str] = Counter()
    simulated_s = 0.0
    for seed in seeds:
        code = 0
        try:
            world = world_of(seed)
            try:
                outcome = world.run()
            finally:
                if options.history:
                    write_history(options.history, world.history.operations())
        except SafetyViolation as error:
            code, kind, reason = EXIT_SAFETY, "safety", str(error)
        except LivenessViolation as error:
            code, kind, reason = EXIT_LIVENESS, "liveness", str(error)
        except Exception as error:  # a crash of the code under test is a result, too
            if options.seed is not None:
                raise
            code, kind, reason = EXIT_CRASH, "crash", f"{type(error).__name__}: {error}"
        if code:
            print(f"seed {seed}: {kind}: {reason}\nreplay: make sim SEED={seed}", file=sys.stderr)
            return code
        simulated_s += outcome.simulated_s
        total.update(outcome.counts)
        total.update(operations=outcome.operations, unknown=outcome.unknown, entries=outcome.entries)
    elapsed = time.monotonic() - started
    for what, count in sorted(total.items()):
        print(f"{count:>10}  {what}")
    print(f"{len(seeds)} seeds held: {simulated_s:.0f} simulated seconds in {elapsed:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
