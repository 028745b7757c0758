"""What can be asked of the registry. A list of these is one entry of the log of *meta*: all of it is done, or nothing.

Each is checked as things stand when it is applied, so one that comes late or twice does no harm: a change that names an
index (`cas`) is refused when that has moved on. Answers are in registry.py.
"""

import re
from typing import TypeAlias

from msgspec import Struct

from noctule.core.registry.objects import Check, CheckStatus, RegistryNode, ServiceInstance, Session


class _Change(Struct, frozen=True, tag_field="c", omit_defaults=True):
    pass


class PutNode(_Change, tag="node", frozen=True):
    """Add or replace a node; its indexes are given by the registry. The same again changes nothing, as everywhere.
    `cas`: None always, 0 only if it is not there, else only at this modify index; answers whether, if it is given."""

    node: RegistryNode
    cas: int | None = None


class PutService(_Change, tag="service", frozen=True):
    """Add or replace an instance. Refused while its node is not there. `cas` and answer as for a node."""

    service: ServiceInstance
    cas: int | None = None


class PutCheck(_Change, tag="check", frozen=True):
    """Add or replace a check. Refused while its node, or the instance it names, is not there. `cas` and answer as for a
    node."""

    check: Check
    cas: int | None = None


class TellCheck(_Change, tag="tell", frozen=True):
    """What a check has found; renews a check with a TTL. Refused when it is not there."""

    node: str
    id: str
    status: CheckStatus
    output: str = ""


class ExpireCheck(_Change, tag="expire_check", frozen=True):
    """A TTL has passed. Nothing happens when the check was renewed meanwhile (`expires_ms` differs)."""

    node: str
    id: str
    expires_ms: int


class RemoveCritical(_Change, tag="reap", frozen=True):
    """The instance of a check that has been critical for too long. Nothing happens when it has not been critical since
    then without a break (`critical_since_ms` differs)."""

    node: str
    id: str
    """Of the check."""
    critical_since_ms: int


class RemoveNode(_Change, tag="no_node", frozen=True):
    """With all its instances, checks and sessions. `cas`: only at this modify index (0: at any, and also if it is not
    there); answers whether it was so."""

    name: str
    cas: int = 0


class RemoveService(_Change, tag="no_service", frozen=True):
    """With its checks. `cas` and answer as for a node."""

    node: str
    id: str
    cas: int = 0


class RemoveCheck(_Change, tag="no_check", frozen=True):
    """Sessions that rest on it end. `cas` and answer as for a node."""

    node: str
    id: str
    cas: int = 0


class SetKey(_Change, tag="set", frozen=True):
    """Set a key. `cas`: None always, 0 only if it is not there, else only at this modify index; answers whether."""

    key: str
    value: bytes
    flags: int = 0
    cas: int | None = None


class AcquireKey(_Change, tag="acquire", frozen=True):
    """Set a key and hold it; answers False when another session holds it, or its lock-delay has not passed."""

    key: str
    value: bytes
    session: str
    flags: int = 0


class ReleaseKey(_Change, tag="release", frozen=True):
    """Set a key and hold it no longer; answers False when this session does not hold it."""

    key: str
    value: bytes
    session: str
    flags: int = 0


class DeleteKey(_Change, tag="delete", frozen=True):
    """Delete a key. `cas`: None always, else only at this modify index; answers whether it is absent now."""

    key: str
    cas: int | None = None


class DeleteTree(_Change, tag="delete_tree", frozen=True):
    """Delete every key with this prefix."""

    prefix: str


class CheckIndex(_Change, tag="check_index", frozen=True):
    """Changes nothing; refuses the list unless the key has this modify index (0: unless it is absent)."""

    key: str
    index: int


class CheckSession(_Change, tag="check_session", frozen=True):
    """Changes nothing; refuses the list unless this session holds the key."""

    key: str
    session: str


class CreateSession(_Change, tag="session", frozen=True):
    """Refused when its node or a check of it is not there, or critical."""

    session: Session


class RenewSession(_Change, tag="renew", frozen=True):
    """Its TTL begins anew, which moves no index; answers False when it is not there any more."""

    id: str


class EndSession(_Change, tag="end", frozen=True):
    """By hand; its keys are released or deleted, with its lock-delay. Nothing happens when it is not there."""

    id: str


class ExpireSession(_Change, tag="expire", frozen=True):
    """Its TTL has passed. Nothing happens when it was renewed meanwhile (`expires_ms` differs)."""

    id: str
    expires_ms: int


Change: TypeAlias = (
    PutNode
    | PutService
    | PutCheck
    | TellCheck
    | ExpireCheck
    | RemoveCritical
    | RemoveNode
    | RemoveService
    | RemoveCheck
    | SetKey
    | AcquireKey
    | ReleaseKey
    | DeleteKey
    | DeleteTree
    | CheckIndex
    | CheckSession
    | CreateSession
    | RenewSession
    | EndSession
    | ExpireSession
)


def change_refused(sentence: str) -> tuple[int, str]:
    """Of the sentence that refuses a list: which change (from 0), and why; (0, the sentence) of any other."""
    found = re.fullmatch(r"change (\d+): (.*)", sentence, re.DOTALL)
    return (int(found[1]), found[2]) if found else (0, sentence)
