"""In which of its two forms this package runs: as it is written, or with its hot path compiled (ADR 0040)."""

from typing import Final

IS_COMPILED: Final = not __file__.endswith(".py")
"""Whether this module, and so all that are compiled together, is an extension module."""
