"""Fuzz one target of resp_targets.py with atheris: run.py parser|commands [folder of the corpus] [libFuzzer's options].

An input that breaks a promise, takes a second of the processor or more than the memory allowed is printed and kept, as
crash-… in the current folder. The processor's seconds are counted, not the wall's: a busy machine is no finding.
docs/reference/fuzzing.md has what was run so far.
"""

import sys
import time
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parent))
with atheris.instrument_imports(include=["noctule.servers.resp_parser", "noctule.core.keyspace"]):
    import resp_targets

SECONDS_MAX = 1.0
OPTIONS = ["-timeout=20", "-rss_limit_mb=512", "-max_len=2048"]


def within_time(target: resp_targets.Target) -> resp_targets.Target:
    """The target, which may also not take too long."""

    def run(data: bytes) -> None:
        started = time.process_time()
        target(data)
        assert time.process_time() - started < SECONDS_MAX, "no input takes so long"

    return run


if __name__ == "__main__":
    name, *rest = sys.argv[1:]
    atheris.Setup([name, *OPTIONS, *rest], within_time(resp_targets.TARGETS[name]))
    atheris.Fuzz()
