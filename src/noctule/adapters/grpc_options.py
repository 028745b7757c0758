"""How our gRPC channels and servers are set: bounds, keepalive, and nothing that the environment chooses."""

from collections.abc import Sequence
from typing import TypeAlias

Options: TypeAlias = Sequence[tuple[str, int | str]]

KEEPALIVE_MS = 10_000
"""A connection is pinged after so long a silence, also without calls, and given up
`KEEPALIVE_TIMEOUT_MS` later when nothing comes back."""
KEEPALIVE_TIMEOUT_MS = 5_000
CONNECT_TIMEOUT_MS = 2_000
"""gRPC calls it a backoff, but no attempt to connect ends sooner or lasts longer."""
RECONNECT_MS_MIN = 50
RECONNECT_MS_MAX = 1_000


def channel_options(message_bytes_max: int, *more: tuple[str, int | str]) -> Options:
    """Of a channel that has connections of its own, so that a large stream on another one is not in its way."""
    return (
        ("grpc.max_send_message_length", message_bytes_max),
        ("grpc.max_receive_message_length", message_bytes_max),
        ("grpc.keepalive_time_ms", KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.initial_reconnect_backoff_ms", RECONNECT_MS_MIN),
        ("grpc.min_reconnect_backoff_ms", CONNECT_TIMEOUT_MS),
        ("grpc.max_reconnect_backoff_ms", RECONNECT_MS_MAX),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_http_proxy", 0),
        # A retry is ours to write, where it is known that nothing happened.
        ("grpc.enable_retries", 0),
        *more,
    )


def server_options(message_bytes_max: int) -> Options:
    """Of a server; a port that is in use is an error, not shared."""
    return (
        ("grpc.max_send_message_length", message_bytes_max),
        ("grpc.max_receive_message_length", message_bytes_max),
        ("grpc.keepalive_time_ms", KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", KEEPALIVE_MS // 2),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.so_reuseport", 0),
    )
