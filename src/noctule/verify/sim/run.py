"""`python -m noctule.verify.sim.run`: many seeds, one line for what failed and the command that replays it.

Exit codes: 0 all held, 10 safety violated, 11 no progress after healing, 12 crashed.
"""

import argparse
import multiprocessing
import os
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from noctule.verify.checkers.history import write_history
from noctule.verify.sim.coverage import RARE
from noctule.verify.sim.invariants import LivenessViolation, SafetyViolation
from noctule.verify.sim.world import Outcome, World

EXIT_SAFETY, EXIT_LIVENESS, EXIT_CRASH = 10, 11, 12

GIT_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Failed:
    """What became of a world that broke something."""

    seed: int
    exit_code: int
    kind: str
    reason: str


def run_seed(seed: int) -> Outcome:
    """One world from one seed; it begins with 3, 4 or 5 nodes."""
    return world_of(seed).run()


def world_of(seed: int) -> World:
    """The world of a seed, not run yet; its `history` is there also when the run then fails."""
    return World(seed, node_count=(3, 4, 3, 5)[seed % 4])


def try_seed(seed: int) -> Outcome | Failed:
    """Run a world, whatever comes of it."""
    try:
        return run_seed(seed)
    except SafetyViolation as error:
        return Failed(seed, EXIT_SAFETY, "safety", str(error))
    except LivenessViolation as error:
        return Failed(seed, EXIT_LIVENESS, "liveness", str(error))
    except Exception as error:  # a crash of the code under test is a result, too
        return Failed(seed, EXIT_CRASH, "crash", f"{type(error).__name__}: {error}")


def commit_text() -> str:
    """The commit that this code is, with ``+changes`` when it is not just that; ``unknown`` outside a checkout."""
    try:
        commit = _git("rev-parse", "--short", "HEAD")
        return f"{commit}+changes" if _git("status", "--porcelain", "--untracked-files=no") else commit
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _git(*words: str) -> str:
    done = subprocess.run(
        ["git", *words],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        timeout=GIT_TIMEOUT_S,
        check=True,
    )
    return done.stdout.strip()


@contextmanager
def _outcomes(seeds: Iterable[int], jobs: int) -> Iterator[Iterator[Outcome | Failed]]:
    """The outcomes in the order of the seeds; processes that still run at the end are stopped."""
    if jobs == 1:
        yield map(try_seed, seeds)
        return
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        yield pool.imap(try_seed, seeds, chunksize=2)


def main() -> int:
    """Run the seeds that the arguments name."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, help="how many seeds")
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--seed", type=int, help="replay this one, with a traceback if it crashes")
    parser.add_argument("--jobs", type=int, default=1, help="how many processes; 0 is one for each processor")
    parser.add_argument("--history", type=Path, help="write what the clients of --seed were answered into this file")
    options = parser.parse_args()
    if options.history and options.seed is None:
        parser.error("--history needs --seed: a history is of one world")
    if options.seed is not None:
        return _replay(options.seed, options.history)
    return _run_many(range(options.first, options.first + options.seeds), options.jobs or os.cpu_count() or 1)


def _replay(seed: int, history: Path | None) -> int:
    world = world_of(seed)
    try:
        outcome = world.run()
    except SafetyViolation as error:
        return _tell(Failed(seed, EXIT_SAFETY, "safety", str(error)))
    except LivenessViolation as error:
        return _tell(Failed(seed, EXIT_LIVENESS, "liveness", str(error)))
    except Exception as error:
        traceback.print_exc()
        return _tell(Failed(seed, EXIT_CRASH, "crash", f"{type(error).__name__}: {error}"))
    finally:
        if history:
            write_history(history, world.history.operations())
    _print_counts(Counter(outcome.counts))
    print(f"digest {outcome.digest}")
    print(f"seed {seed} held: {outcome.simulated_s:.0f} simulated seconds, {outcome.operations} operations")
    return 0


def _run_many(seeds: range, jobs: int) -> int:
    started = time.monotonic()
    total: Counter[str] = Counter(dict.fromkeys(RARE, 0))
    simulated_s = 0.0
    operations = 0
    with _outcomes(seeds, jobs) as outcomes:
        for outcome in outcomes:
            if isinstance(outcome, Failed):
                return _tell(outcome)
            simulated_s += outcome.simulated_s
            operations += outcome.operations
            total.update(outcome.counts)
            total.update({"operation of unknown fate": outcome.unknown, "entry committed": outcome.entries})
    elapsed = time.monotonic() - started
    _print_counts(total)
    never = [what for what in RARE if not total[what]]
    if never:
        print(f"never happened: {', '.join(never)}", file=sys.stderr)
    print(
        f"{len(seeds)} seeds held: {simulated_s:.0f} simulated seconds, {operations} operations, "
        f"in {elapsed:.1f} s with {jobs} processes"
    )
    return 0


def _tell(failed: Failed) -> int:
    print(
        f"seed {failed.seed}: {failed.kind}: {failed.reason}\n"
        f"commit {commit_text()}\n"
        f"replay: make sim SEED={failed.seed}",
        file=sys.stderr,
    )
    return failed.exit_code


def _print_counts(counts: Counter[str]) -> None:
    for what, count in sorted(counts.items()):
        print(f"{count:>10}  {what}")


if __name__ == "__main__":
    sys.exit(main())
