from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Member(_message.Message):
    __slots__ = ("id", "peer", "control", "http", "resp", "labels", "weight", "state", "version", "features", "joined_ms")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    PEER_FIELD_NUMBER: _ClassVar[int]
    CONTROL_FIELD_NUMBER: _ClassVar[int]
    HTTP_FIELD_NUMBER: _ClassVar[int]
    RESP_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    JOINED_MS_FIELD_NUMBER: _ClassVar[int]
    id: int
    peer: str
    control: str
    http: str
    resp: str
    labels: _containers.ScalarMap[str, str]
    weight: float
    state: str
    version: str
    features: _containers.RepeatedScalarFieldContainer[str]
    joined_ms: int
    def __init__(self, id: _Optional[int] = ..., peer: _Optional[str] = ..., control: _Optional[str] = ..., http: _Optional[str] = ..., resp: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ..., weight: _Optional[float] = ..., state: _Optional[str] = ..., version: _Optional[str] = ..., features: _Optional[_Iterable[str]] = ..., joined_ms: _Optional[int] = ...) -> None: ...

class MemberFacts(_message.Message):
    __slots__ = ("peer", "control", "http", "resp", "labels", "weight", "version", "features")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    PEER_FIELD_NUMBER: _ClassVar[int]
    CONTROL_FIELD_NUMBER: _ClassVar[int]
    HTTP_FIELD_NUMBER: _ClassVar[int]
    RESP_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    peer: str
    control: str
    http: str
    resp: str
    labels: _containers.ScalarMap[str, str]
    weight: float
    version: str
    features: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, peer: _Optional[str] = ..., control: _Optional[str] = ..., http: _Optional[str] = ..., resp: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ..., weight: _Optional[float] = ..., version: _Optional[str] = ..., features: _Optional[_Iterable[str]] = ...) -> None: ...

class JoinRequest(_message.Message):
    __slots__ = ("token", "nonce", "facts", "cluster")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    FACTS_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    token: str
    nonce: str
    facts: MemberFacts
    cluster: str
    def __init__(self, token: _Optional[str] = ..., nonce: _Optional[str] = ..., facts: _Optional[_Union[MemberFacts, _Mapping]] = ..., cluster: _Optional[str] = ...) -> None: ...

class JoinAnswer(_message.Message):
    __slots__ = ("refusal", "node_id", "cluster_id", "cluster", "members", "settings")
    class SettingsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    refusal: str
    node_id: int
    cluster_id: str
    cluster: str
    members: _containers.RepeatedCompositeFieldContainer[Member]
    settings: _containers.ScalarMap[str, str]
    def __init__(self, refusal: _Optional[str] = ..., node_id: _Optional[int] = ..., cluster_id: _Optional[str] = ..., cluster: _Optional[str] = ..., members: _Optional[_Iterable[_Union[Member, _Mapping]]] = ..., settings: _Optional[_Mapping[str, str]] = ...) -> None: ...

class LeaveRequest(_message.Message):
    __slots__ = ("node_id", "at_once")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    AT_ONCE_FIELD_NUMBER: _ClassVar[int]
    node_id: int
    at_once: bool
    def __init__(self, node_id: _Optional[int] = ..., at_once: _Optional[bool] = ...) -> None: ...

class LeaveAnswer(_message.Message):
    __slots__ = ("refusal", "state")
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    refusal: str
    state: str
    def __init__(self, refusal: _Optional[str] = ..., state: _Optional[str] = ...) -> None: ...

class ClusterInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Promise(_message.Message):
    __slots__ = ("node", "term", "vote", "last_term", "last_index")
    NODE_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    VOTE_FIELD_NUMBER: _ClassVar[int]
    LAST_TERM_FIELD_NUMBER: _ClassVar[int]
    LAST_INDEX_FIELD_NUMBER: _ClassVar[int]
    node: int
    term: int
    vote: int
    last_term: int
    last_index: int
    def __init__(self, node: _Optional[int] = ..., term: _Optional[int] = ..., vote: _Optional[int] = ..., last_term: _Optional[int] = ..., last_index: _Optional[int] = ...) -> None: ...

class Partition(_message.Message):
    __slots__ = ("id", "first_slot", "last_slot", "replicas", "state", "epoch", "initial", "parent", "former")
    ID_FIELD_NUMBER: _ClassVar[int]
    FIRST_SLOT_FIELD_NUMBER: _ClassVar[int]
    LAST_SLOT_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    INITIAL_FIELD_NUMBER: _ClassVar[int]
    PARENT_FIELD_NUMBER: _ClassVar[int]
    FORMER_FIELD_NUMBER: _ClassVar[int]
    id: int
    first_slot: int
    last_slot: int
    replicas: _containers.RepeatedScalarFieldContainer[int]
    state: str
    epoch: int
    initial: _containers.RepeatedScalarFieldContainer[int]
    parent: int
    former: _containers.RepeatedCompositeFieldContainer[Promise]
    def __init__(self, id: _Optional[int] = ..., first_slot: _Optional[int] = ..., last_slot: _Optional[int] = ..., replicas: _Optional[_Iterable[int]] = ..., state: _Optional[str] = ..., epoch: _Optional[int] = ..., initial: _Optional[_Iterable[int]] = ..., parent: _Optional[int] = ..., former: _Optional[_Iterable[_Union[Promise, _Mapping]]] = ...) -> None: ...

class ClusterInfo(_message.Message):
    __slots__ = ("cluster", "cluster_id", "epoch", "node_id", "leader", "members", "partitions")
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    LEADER_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    PARTITIONS_FIELD_NUMBER: _ClassVar[int]
    cluster: str
    cluster_id: str
    epoch: int
    node_id: int
    leader: int
    members: _containers.RepeatedCompositeFieldContainer[Member]
    partitions: _containers.RepeatedCompositeFieldContainer[Partition]
    def __init__(self, cluster: _Optional[str] = ..., cluster_id: _Optional[str] = ..., epoch: _Optional[int] = ..., node_id: _Optional[int] = ..., leader: _Optional[int] = ..., members: _Optional[_Iterable[_Union[Member, _Mapping]]] = ..., partitions: _Optional[_Iterable[_Union[Partition, _Mapping]]] = ...) -> None: ...

class NodeInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PeerInfo(_message.Message):
    __slots__ = ("id", "alive", "peer", "resp", "http", "leads", "last_contact_ms")
    ID_FIELD_NUMBER: _ClassVar[int]
    ALIVE_FIELD_NUMBER: _ClassVar[int]
    PEER_FIELD_NUMBER: _ClassVar[int]
    RESP_FIELD_NUMBER: _ClassVar[int]
    HTTP_FIELD_NUMBER: _ClassVar[int]
    LEADS_FIELD_NUMBER: _ClassVar[int]
    LAST_CONTACT_MS_FIELD_NUMBER: _ClassVar[int]
    id: int
    alive: bool
    peer: str
    resp: str
    http: str
    leads: int
    last_contact_ms: int
    def __init__(self, id: _Optional[int] = ..., alive: _Optional[bool] = ..., peer: _Optional[str] = ..., resp: _Optional[str] = ..., http: _Optional[str] = ..., leads: _Optional[int] = ..., last_contact_ms: _Optional[int] = ...) -> None: ...

class GroupInfo(_message.Message):
    __slots__ = ("id", "first_slot", "last_slot", "role", "term", "commit_index", "applied_index", "last_index", "snapshot_index", "keys", "leader", "lag", "admitted")
    class LagEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: int
        def __init__(self, key: _Optional[int] = ..., value: _Optional[int] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    FIRST_SLOT_FIELD_NUMBER: _ClassVar[int]
    LAST_SLOT_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    COMMIT_INDEX_FIELD_NUMBER: _ClassVar[int]
    APPLIED_INDEX_FIELD_NUMBER: _ClassVar[int]
    LAST_INDEX_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_INDEX_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    LEADER_FIELD_NUMBER: _ClassVar[int]
    LAG_FIELD_NUMBER: _ClassVar[int]
    ADMITTED_FIELD_NUMBER: _ClassVar[int]
    id: int
    first_slot: int
    last_slot: int
    role: str
    term: int
    commit_index: int
    applied_index: int
    last_index: int
    snapshot_index: int
    keys: int
    leader: int
    lag: _containers.ScalarMap[int, int]
    admitted: bool
    def __init__(self, id: _Optional[int] = ..., first_slot: _Optional[int] = ..., last_slot: _Optional[int] = ..., role: _Optional[str] = ..., term: _Optional[int] = ..., commit_index: _Optional[int] = ..., applied_index: _Optional[int] = ..., last_index: _Optional[int] = ..., snapshot_index: _Optional[int] = ..., keys: _Optional[int] = ..., leader: _Optional[int] = ..., lag: _Optional[_Mapping[int, int]] = ..., admitted: _Optional[bool] = ...) -> None: ...

class NodeInfo(_message.Message):
    __slots__ = ("node_id", "cluster", "version", "protocol_version", "pid", "uptime_s", "data_dir", "storage_failure", "draining", "nodes", "groups", "counters", "gauges")
    class CountersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class GaugesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    UPTIME_S_FIELD_NUMBER: _ClassVar[int]
    DATA_DIR_FIELD_NUMBER: _ClassVar[int]
    STORAGE_FAILURE_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    COUNTERS_FIELD_NUMBER: _ClassVar[int]
    GAUGES_FIELD_NUMBER: _ClassVar[int]
    node_id: int
    cluster: str
    version: str
    protocol_version: int
    pid: int
    uptime_s: float
    data_dir: str
    storage_failure: str
    draining: bool
    nodes: _containers.RepeatedCompositeFieldContainer[PeerInfo]
    groups: _containers.RepeatedCompositeFieldContainer[GroupInfo]
    counters: _containers.ScalarMap[str, int]
    gauges: _containers.ScalarMap[str, float]
    def __init__(self, node_id: _Optional[int] = ..., cluster: _Optional[str] = ..., version: _Optional[str] = ..., protocol_version: _Optional[int] = ..., pid: _Optional[int] = ..., uptime_s: _Optional[float] = ..., data_dir: _Optional[str] = ..., storage_failure: _Optional[str] = ..., draining: _Optional[bool] = ..., nodes: _Optional[_Iterable[_Union[PeerInfo, _Mapping]]] = ..., groups: _Optional[_Iterable[_Union[GroupInfo, _Mapping]]] = ..., counters: _Optional[_Mapping[str, int]] = ..., gauges: _Optional[_Mapping[str, float]] = ...) -> None: ...

class HeartbeatRequest(_message.Message):
    __slots__ = ("node_id", "incarnation", "cluster_id", "number")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    node_id: int
    incarnation: int
    cluster_id: str
    number: int
    def __init__(self, node_id: _Optional[int] = ..., incarnation: _Optional[int] = ..., cluster_id: _Optional[str] = ..., number: _Optional[int] = ...) -> None: ...

class HeartbeatAnswer(_message.Message):
    __slots__ = ("node_id", "incarnation", "number")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    node_id: int
    incarnation: int
    number: int
    def __init__(self, node_id: _Optional[int] = ..., incarnation: _Optional[int] = ..., number: _Optional[int] = ...) -> None: ...
