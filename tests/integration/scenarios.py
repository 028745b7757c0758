"""What the fixture `run` of conftest.py is."""

from collections.abc import Callable, Coroutine
from typing import TypeAlias

SCENARIO_S = 20.0
"""After so long a scenario has failed."""

Run: TypeAlias = Callable[[Coroutine[None, None, None]], None]
"""Runs a scenario to its end."""
