"""Plain structs as gRPC messages and back: nothing is lost, and both sides of the wire have the same fields."""

import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import msgspec
import pytest
from google.protobuf.descriptor import FieldDescriptor
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from noctule.adapters import control
from noctule.adapters.grpc_methods import (
    FRAMES,
    HEARTBEAT,
    JOIN,
    METHODS,
    SEND_SNAPSHOTS,
    START_MIGRATION,
    Codec,
)
from noctule.adapters.proto import control_pb2, raft_pb2, transfer_pb2
from noctule.base.errors import ProtocolError
from noctule.core.roster.members import Member

ROOT = Path(__file__).parents[3]
CODECS: dict[str, Codec[Any]] = {
    codec.plain.__name__: codec for method in METHODS for codec in (method.request, method.answer)
}
SERVICES = [
    service
    for module in (control_pb2, transfer_pb2, raft_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
]


def values_of(kind: Any) -> st.SearchStrategy[Any]:
    """Any value of a type that the structs have."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        hints = get_type_hints(kind)
        return st.builds(kind, **{name: values_of(hints[name]) for name in kind.__struct_fields__})
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is tuple:
        return st.lists(values_of(arguments[0]), max_size=3).map(tuple)
    if origin is dict:
        return st.dictionaries(values_of(arguments[0]), values_of(arguments[1]), max_size=3)
    if origin in (Union, types.UnionType):
        return st.one_of([st.none() if each is type(None) else values_of(each) for each in arguments])
    if kind is int:
        return st.integers(0, 2**31 - 1)
    if kind is float:
        return st.floats(allow_nan=False, allow_infinity=False)
    if kind is str:
        return st.text(max_size=8)
    return st.from_type(kind)  # bool and the enums


@pytest.mark.parametrize("name", sorted(CODECS))
@settings(
    max_examples=30, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate]
)  # To shrink fifty fields takes minutes.
@given(data=st.data())
def test_what_is_sent_arrives(name: str, data: st.DataObject) -> None:
    codec = CODECS[name]
    value = data.draw(values_of(codec.plain))
    assert codec.decode(codec.encode(value)) == value


@pytest.mark.parametrize("name", sorted(CODECS))
def test_struct_and_message_have_the_same_fields(name: str) -> None:
    """A field that only one of them has would be lost without a word."""
    assert_same_fields(CODECS[name].plain, CODECS[name].message.DESCRIPTOR)


def assert_same_fields(plain: type[msgspec.Struct], descriptor: Any) -> None:
    assert list(plain.__struct_fields__) == [field.name for field in descriptor.fields], plain.__name__
    hints = get_type_hints(plain)
    for field in descriptor.fields:
        inner = [each for each in (hints[field.name], *get_args(hints[field.name])) if isinstance(each, type)]
        structs = [each for each in inner if issubclass(each, msgspec.Struct)]
        if field.type == FieldDescriptor.TYPE_MESSAGE and structs:
            assert_same_fields(structs[0], field.message_type)


def test_every_method_of_the_services_has_its_types() -> None:
    paths = {f"/{method.containing_service.full_name}/{method.name}" for each in SERVICES for method in each.methods}
    assert paths == {method.path for method in METHODS} | {SEND_SNAPSHOTS, FRAMES}
    for method in METHODS:
        (found,) = [
            each
            for service in SERVICES
            for each in service.methods
            if f"/{service.full_name}/{each.name}" == method.path
        ]
        assert found.input_type.full_name == method.request.message.DESCRIPTOR.full_name
        assert found.output_type.full_name == method.answer.message.DESCRIPTOR.full_name


def test_what_a_node_does_not_know_is_defaults() -> None:
    """An older peer leaves fields out; a newer one sends more."""
    newer = control_pb2.HeartbeatRequest(node_id=3, incarnation=7).SerializeToString() + b"\xfa\x06\x03new"
    assert HEARTBEAT.request.decode(newer) == control.HeartbeatRequest(3, 7, "", 0)


def test_a_member_whose_state_is_not_known_is_refused() -> None:
    answer = control_pb2.JoinAnswer(members=[control_pb2.Member(id=1, state="dancing")])
    with pytest.raises(ProtocolError, match="JoinAnswer"):
        JOIN.answer.decode(answer.SerializeToString())


@pytest.mark.parametrize("data", [b"\xff\xff\xff", b"\x0a\xff", b"\x0a\x02\xff\xfe"])
def test_garbage_is_a_protocol_error(data: bytes) -> None:
    with pytest.raises(ProtocolError, match="cannot be read"):
        JOIN.request.decode(data)


def test_a_number_that_does_not_fit_is_no_other_number() -> None:
    with pytest.raises(ProtocolError, match="cannot be sent"):
        START_MIGRATION.request.encode(control.StartMigrationRequest(partition=-1))
    with pytest.raises(ProtocolError, match="cannot be sent"):
        JOIN.answer.encode(control.JoinAnswer(members=(Member(2**32, "x:1"),)))


def test_the_messages_are_those_of_the_proto_files(tmp_path: Path) -> None:
    """`make proto` was run after the last change."""
    pytest.importorskip("grpc_tools")
    environment = {**os.environ, "PYTHON": sys.executable}
    subprocess.run([ROOT / "scripts" / "make-proto", str(tmp_path)], check=True, env=environment)
    made = tmp_path / "noctule" / "adapters" / "proto"
    kept = ROOT / "src" / "noctule" / "adapters" / "proto"
    names = sorted(path.name for path in made.iterdir())
    assert names == sorted(path.name for path in kept.glob("*_pb2.*"))
    for name in names:
        assert without_version((made / name).read_text()) == without_version((kept / name).read_text()), name


def without_version(text: str) -> list[str]:
    """The release of protoc is written into what it makes; another one's is as good."""
    lines = text.splitlines()
    return [line for line in lines if "Protobuf Python Version" not in line and not line.strip().rstrip(",").isdigit()]
