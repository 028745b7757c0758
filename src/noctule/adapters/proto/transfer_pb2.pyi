from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Piece(_message.Message):
    __slots__ = ("number", "message", "gzip")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    GZIP_FIELD_NUMBER: _ClassVar[int]
    number: int
    message: bytes
    gzip: bool
    def __init__(self, number: _Optional[int] = ..., message: _Optional[bytes] = ..., gzip: _Optional[bool] = ...) -> None: ...

class Receipt(_message.Message):
    __slots__ = ("number",)
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    number: int
    def __init__(self, number: _Optional[int] = ...) -> None: ...

class Migration(_message.Message):
    __slots__ = ("id", "partition", "source", "target", "stage", "reason", "note", "begun_ms", "stage_ms", "ended_ms")
    ID_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    BEGUN_MS_FIELD_NUMBER: _ClassVar[int]
    STAGE_MS_FIELD_NUMBER: _ClassVar[int]
    ENDED_MS_FIELD_NUMBER: _ClassVar[int]
    id: int
    partition: int
    source: int
    target: int
    stage: str
    reason: str
    note: str
    begun_ms: int
    stage_ms: int
    ended_ms: int
    def __init__(self, id: _Optional[int] = ..., partition: _Optional[int] = ..., source: _Optional[int] = ..., target: _Optional[int] = ..., stage: _Optional[str] = ..., reason: _Optional[str] = ..., note: _Optional[str] = ..., begun_ms: _Optional[int] = ..., stage_ms: _Optional[int] = ..., ended_ms: _Optional[int] = ...) -> None: ...

class StartMigrationRequest(_message.Message):
    __slots__ = ("partition", "source", "target", "reason")
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    partition: int
    source: int
    target: int
    reason: str
    def __init__(self, partition: _Optional[int] = ..., source: _Optional[int] = ..., target: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class WatchMigrationRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: int
    def __init__(self, id: _Optional[int] = ...) -> None: ...

class CancelMigrationRequest(_message.Message):
    __slots__ = ("id", "reason")
    ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    id: int
    reason: str
    def __init__(self, id: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class MigrationProgress(_message.Message):
    __slots__ = ("migration", "bytes_sent", "bytes_total", "lag")
    MIGRATION_FIELD_NUMBER: _ClassVar[int]
    BYTES_SENT_FIELD_NUMBER: _ClassVar[int]
    BYTES_TOTAL_FIELD_NUMBER: _ClassVar[int]
    LAG_FIELD_NUMBER: _ClassVar[int]
    migration: Migration
    bytes_sent: int
    bytes_total: int
    lag: int
    def __init__(self, migration: _Optional[_Union[Migration, _Mapping]] = ..., bytes_sent: _Optional[int] = ..., bytes_total: _Optional[int] = ..., lag: _Optional[int] = ...) -> None: ...
