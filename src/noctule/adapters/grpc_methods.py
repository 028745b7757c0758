"""The methods of our gRPC services with their types, and how a plain struct becomes a message and comes back.

Struct and message have the same field names, so one conversion by names serves all of them; it takes tens of
microseconds, which none of these methods minds. Snapshots and frames, which are many, do not go this way.
"""

from typing import Generic, TypeVar

import msgspec
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from google.protobuf.message import DecodeError, Message

from noctule.adapters import control
from noctule.adapters.proto import control_pb2, transfer_pb2
from noctule.base.errors import ProtocolError

PACKAGE = "noctule.v1"

Ask = TypeVar("Ask", bound=msgspec.Struct)
Answer = TypeVar("Answer", bound=msgspec.Struct)
Plain = TypeVar("Plain", bound=msgspec.Struct)


class Codec(Generic[Plain]):
    """One struct and the message that it travels as."""

    def __init__(self, plain: type[Plain], message: type[Message]) -> None:
        self.plain = plain
        self.message = message

    def encode(self, value: Plain) -> bytes:
        """The message's bytes. Raises `ProtocolError` when a value does not fit its field."""
        try:
            message = ParseDict(msgspec.to_builtins(value, str_keys=True), self.message())
        except ParseError as error:
            raise ProtocolError(f"{type(value).__name__} cannot be sent: {error}") from error
        return message.SerializeToString()

    def decode(self, data: bytes) -> Plain:
        """The struct, with defaults for what an older peer left out. Raises `ProtocolError`."""
        try:
            message = self.message.FromString(data)
            # 64-bit numbers and the keys of maps are text there, as in JSON; hence not strict.
            fields = MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
            return msgspec.convert(fields, self.plain, strict=False, str_keys=True)
        except (DecodeError, ValueError, msgspec.ValidationError) as error:
            raise ProtocolError(f"a peer sent a {self.plain.__name__} that cannot be read: {error}") from error


class Method(Generic[Ask, Answer]):
    """One method: its name, and what goes there and back."""

    def __init__(self, service: str, name: str, request: Codec[Ask], answer: Codec[Answer]) -> None:
        self.service = f"{PACKAGE}.{service}"
        self.name = name
        self.path = f"/{self.service}/{name}"
        self.request = request
        self.answer = answer


_progress = Codec(control.MigrationProgress, transfer_pb2.MigrationProgress)

JOIN = Method(
    "Control",
    "Join",
    Codec(control.JoinRequest, control_pb2.JoinRequest),
    Codec(control.JoinAnswer, control_pb2.JoinAnswer),
)
LEAVE = Method(
    "Control",
    "Leave",
    Codec(control.LeaveRequest, control_pb2.LeaveRequest),
    Codec(control.LeaveAnswer, control_pb2.LeaveAnswer),
)
GET_CLUSTER_INFO = Method(
    "Control",
    "GetClusterInfo",
    Codec(control.ClusterInfoRequest, control_pb2.ClusterInfoRequest),
    Codec(control.ClusterInfo, control_pb2.ClusterInfo),
)
GET_NODE_INFO = Method(
    "Control",
    "GetNodeInfo",
    Codec(control.NodeInfoRequest, control_pb2.NodeInfoRequest),
    Codec(control.NodeInfo, control_pb2.NodeInfo),
)
HEARTBEAT = Method(
    "Control",
    "Heartbeat",
    Codec(control.HeartbeatRequest, control_pb2.HeartbeatRequest),
    Codec(control.HeartbeatAnswer, control_pb2.HeartbeatAnswer),
)
START_MIGRATION = Method(
    "Transfer",
    "StartMigration",
    Codec(control.StartMigrationRequest, transfer_pb2.StartMigrationRequest),
    _progress,
)
WATCH_MIGRATION = Method(
    "Transfer",
    "WatchMigration",
    Codec(control.WatchMigrationRequest, transfer_pb2.WatchMigrationRequest),
    _progress,
)
CANCEL_MIGRATION = Method(
    "Transfer",
    "CancelMigration",
    Codec(control.CancelMigrationRequest, transfer_pb2.CancelMigrationRequest),
    _progress,
)

METHODS: tuple[Method[msgspec.Struct, msgspec.Struct], ...] = (
    JOIN,
    LEAVE,
    GET_CLUSTER_INFO,
    GET_NODE_INFO,
    HEARTBEAT,
    START_MIGRATION,
    WATCH_MIGRATION,
    CANCEL_MIGRATION,
)  # type: ignore[assignment]  # A tuple of methods of any types, for tests and for whoever lists them.

SEND_SNAPSHOTS_SERVICE, SEND_SNAPSHOTS = f"{PACKAGE}.Transfer", f"/{PACKAGE}.Transfer/SendSnapshots"
FRAMES_SERVICE, FRAMES = f"{PACKAGE}.RaftStream", f"/{PACKAGE}.RaftStream/Frames"
