"""The bounds that every process of a cluster shares, each with its unit.

A bound of one machine or one room stands with that machine. Here are those that two floors must agree on.
"""

from typing import Final

KEY_BYTES_MAX: Final = 64 * 1024
"""A longer key is refused: keys are copied into every index, so a huge one costs many times its size."""

CHANNEL_BYTES_MAX: Final = 1_024
"""The longest name of a channel: each message costs its length times that of all patterns."""

VALUE_BYTES_MAX: Final = 8 * 1024 * 1024
"""A longer argument is refused. One entry must fit a peer frame and one sync with room to spare."""

COMMAND_BYTES_MAX: Final = 16 * 1024 * 1024
"""All arguments of one command together."""

ARGUMENTS_MAX: Final = 65_536
"""Arguments of one command."""

PIPELINE_COMMANDS_MAX: Final = 4_096
"""Commands of one RESP connection that may wait for their replies; over it the connection is not read."""

FRAME_BYTES_MAX: Final = 64 * 1024 * 1024
"""The largest peer frame; a peer that announces more is disconnected."""

HTTP_BODY_BYTES_MAX: Final = VALUE_BYTES_MAX
"""The largest body the HTTP API reads; more is answered 413."""

PARTITIONS_MAX: Final = 16_384
"""One partition for each slot at most."""

SCAN_COUNT_MAX: Final = 10_000
"""The largest COUNT that SCAN honours in one call."""

CONTROL_MESSAGE_BYTES_MAX: Final = 4 * 1024 * 1024
"""The largest request or answer between nodes over gRPC: a map of all partitions with room to spare."""

CONTROL_CALLS_MAX: Final = 256
"""Calls that a node serves at once over gRPC, streams included; one more is told to try again."""

SNAPSHOT_WINDOW_BYTES: Final = 8 * 1024 * 1024
"""Bytes of snapshots on their way to one node, waiting to be sent or to be acknowledged."""

SNAPSHOT_PIECE_BYTES_MAX: Final = 24 * 1024 * 1024
"""The largest piece of a snapshot between nodes: the largest entry with its envelope, should one be all of it."""
