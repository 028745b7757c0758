"""Who does what: from a change to the method that carries it out, and why one was not done."""

from typing import assert_never

from noctule.core.registry import changes as asked
from noctule.core.registry.bounds import require
from noctule.core.registry.catalog import Catalog
from noctule.core.registry.changes import Change
from noctule.core.registry.kv import KeyValues
from noctule.core.registry.moment import Moment
from noctule.core.registry.sessions import Sessions


def carry_out(change: Change, catalog: Catalog, sessions: Sessions, kv: KeyValues, at: Moment) -> bool | None:
    """Do one change. Whether it was done, where that may be asked; raises `RequestError`, with a part done perhaps."""
    match change:
        case asked.SetKey():
            return kv.set(change, at)
        case asked.AcquireKey():
            # Consul's words, which its clients look for.
            require(change.session in sessions.rows, f"invalid session {change.session!r}")
            return kv.acquire(change, at)
        case asked.ReleaseKey():
            return kv.release(change, at)
        case asked.DeleteKey():
            return kv.delete(change, at)
        case asked.RemoveNode():
            return catalog.remove_node(change, at)
        case asked.RemoveService():
            return catalog.remove_service(change, at)
        case asked.RemoveCheck():
            return catalog.remove_check(change, at)
        case asked.RenewSession():
            return sessions.renew(change, at)
        case asked.DeleteTree():
            kv.delete_tree(change)
        case asked.CheckIndex():
            kv.check_index(change)
        case asked.CheckSession():
            kv.check_session(change)
        case asked.CreateSession():
            catalog.require_healthy(change.session)
            sessions.create(change.session, at)
        case asked.ExpireSession():
            sessions.expire(change, at)
        case asked.EndSession():
            sessions.end(change.id, at)
        case _:
            return _carry_out_catalog(change, catalog, at)
    return None


def _carry_out_catalog(
    change: (
        asked.PutNode | asked.PutService | asked.PutCheck | asked.TellCheck | asked.ExpireCheck | asked.RemoveCritical
    ),
    catalog: Catalog,
    at: Moment,
) -> bool | None:
    match change:
        case asked.PutNode():
            return catalog.put_node(change, at)
        case asked.PutService():
            return catalog.put_service(change, at)
        case asked.PutCheck():
            return catalog.put_check(change, at)
        case asked.TellCheck():
            catalog.tell_check(change, at)
        case asked.ExpireCheck():
            catalog.expire_check(change, at)
        case asked.RemoveCritical():
            catalog.remove_critical(change, at)
        case _:
            assert_never(change)
    return None


def undone(change: Change) -> str:
    """Why a change answers False."""
    match change:
        case asked.AcquireKey():
            return f"key {change.key!r} is held by another session, or its lock-delay has not passed"
        case asked.ReleaseKey():
            return f"key {change.key!r} is not held by session {change.session!r}"
        case asked.RenewSession():
            return f"there is no session {change.id!r}"
        case asked.SetKey() | asked.DeleteKey():
            return f"key {change.key!r} has not the modify index {change.cas}"
        case asked.PutNode() | asked.PutService() | asked.PutCheck():
            return f"what is to be replaced has not the modify index {change.cas}"
        case asked.RemoveNode() | asked.RemoveService() | asked.RemoveCheck():
            return f"what is to be removed has not the modify index {change.cas}"
        case _:
            return "it could not be done"
