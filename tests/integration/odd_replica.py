"""``noctule`` with a fault such as broken memory would be: ``python odd_replica.py …`` keeps other values of ``odd:…``.

Nothing in a release can be told to differ, so that it is put in from outside.
"""

import sys

from noctule.cli import main
from noctule.core.keyspace.state import State, Value

_put = State.put


def put(self: State, key: bytes, value: Value) -> None:
    """Keep one byte more than the others."""
    _put(self, key, value + b"!" if key.startswith(b"odd:") and isinstance(value, bytes) else value)


if __name__ == "__main__":
    State.put = put  # type: ignore[method-assign]
    sys.exit(main.main())
