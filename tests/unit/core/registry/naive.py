"""The registry as one would write it without caring what it costs: what is kept is copied, and everything is searched.

It shares the objects and the changes with the real one, and no code.
"""

import copy
import re
from collections.abc import Sequence

import msgspec

from noctule.core.registry import changes as asked
from noctule.core.registry.changes import Change
from noctule.core.registry.objects import Check, KvEntry, Session

FREE, CRITICAL = "", "critical"


class RefusedError(Exception):
    """A change cannot be done."""


class Naive:
    """Everything by kind and name, as a plain mapping of fields."""

    def __init__(self) -> None:
        self.index = 1
        self.things: dict[tuple[str, str, str], dict[str, object]] = {}
        self.indexes: dict[tuple[str, str, str], tuple[int, int]] = {}
        """When each was created, and last changed."""
        self.ends: dict[tuple[str, str, str], int] = {}
        """When each ends by time."""
        self.critical_since: dict[tuple[str, str, str], int] = {}
        self.delays: dict[str, int] = {}

    def apply(self, changes: Sequence[Change], now_ms: int) -> list[bool | int]:
        saved = copy.deepcopy(self.__dict__)
        answers: list[bool | None] = []
        index = self.index + 1
        try:
            for change in changes:
                before = copy.deepcopy(self.things)
                answers.append(self.step(change, now_ms))
                for name in before.keys() | self.things.keys():
                    if before.get(name) == self.things.get(name):
                        continue
                    self.index = index
                    if name not in self.things:
                        del self.indexes[name]
                        self.ends.pop(name, None)
                        self.critical_since.pop(name, None)
                    else:
                        created = self.indexes[name][0] if name in before else index
                        self.indexes[name] = (created, index)
        except RefusedError:
            self.__dict__.update(saved)
            raise
        self.delays = {key: until for key, until in self.delays.items() if until > now_ms}
        return [self.index if answer is None else answer for answer in answers]

    def step(self, change: Change, now_ms: int) -> bool | None:
        name = re.sub(r"(?<!^)([A-Z])", r"_\1", type(change).__name__).lower()
        return getattr(self, f"do_{name}")(change, now_ms)  # type: ignore[no-any-return]

    def all(self, kind: str) -> list[dict[str, object]]:
        return [self.things[name] for name in sorted(self.things) if name[0] == kind]

    # Catalog

    def do_put_node(self, change: asked.PutNode, now_ms: int) -> None:
        self.things["node", change.node.name, ""] = plain(change.node)

    def do_put_service(self, change: asked.PutService, now_ms: int) -> None:
        service = change.service
        if ("node", service.node, "") not in self.things:
            raise RefusedError
        self.things["service", service.node, service.id] = plain(service)
        for check in self.all("check"):
            if (check["node"], check["service_id"]) == (service.node, service.id):
                check["service_name"], check["service_tags"] = service.name, service.tags

    def do_put_check(self, change: asked.PutCheck, now_ms: int) -> None:
        check = plain(change.check)
        check["service_name"], check["service_tags"] = "", ()
        if ("node", change.check.node, "") not in self.things:
            raise RefusedError
        if change.check.service_id:
            service = self.things.get(("service", change.check.node, change.check.service_id))
            if service is None:
                raise RefusedError
            check["service_name"], check["service_tags"] = service["name"], service["tags"]
        self.things["check", change.check.node, change.check.id] = check
        self.told(change.check.node, change.check.id, now_ms)

    def do_tell_check(self, change: asked.TellCheck, now_ms: int) -> None:
        check = self.things.get(("check", change.node, change.id))
        if check is None:
            raise RefusedError
        check["status"], check["output"] = change.status, change.output
        self.told(change.node, change.id, now_ms)

    def told(self, node: str, check_id: str, now_ms: int) -> None:
        name = ("check", node, check_id)
        check = self.things[name]
        self.ends.pop(name, None)
        if check["status"] != CRITICAL:
            self.critical_since.pop(name, None)
            if check["ttl_ms"]:
                self.ends[name] = now_ms + int(str(check["ttl_ms"]))
            return
        self.critical_since.setdefault(name, now_ms)
        self.check_lost(node, check_id, now_ms)

    def do_expire_check(self, change: asked.ExpireCheck, now_ms: int) -> None:
        name = ("check", change.node, change.id)
        if self.ends.get(name) == change.expires_ms and change.expires_ms <= now_ms:
            output = self.things[name]["output"]
            expired = f"TTL expired (last output before timeout follows): {output}" if output else "TTL expired"
            self.things[name].update(status=CRITICAL, output=expired)
            self.told(change.node, change.id, now_ms)

    def do_remove_critical(self, change: asked.RemoveCritical, now_ms: int) -> None:
        name = ("check", change.node, change.id)
        check = self.things.get(name)
        if check is None or not check["service_id"] or not check["deregister_after_ms"]:
            return
        is_due = change.critical_since_ms + int(str(check["deregister_after_ms"])) <= now_ms
        if is_due and self.critical_since.get(name) == change.critical_since_ms:
            self.drop_service(change.node, str(check["service_id"]), now_ms)

    def fits(self, name: tuple[str, str, str], cas: int) -> bool:
        return not cas or (name in self.things and self.indexes[name][1] == cas)

    def do_remove_node(self, change: asked.RemoveNode, now_ms: int) -> bool:
        if not self.fits(("node", change.name, ""), change.cas):
            return False
        for service in self.all("service"):
            if service["node"] == change.name:
                self.drop_service(change.name, str(service["id"]), now_ms)
        for check in self.all("check"):
            if check["node"] == change.name:
                self.drop_check(change.name, str(check["id"]), now_ms)
        for session in self.all("session"):
            if session["node"] == change.name:
                self.drop_session(str(session["id"]), now_ms)
        self.things.pop(("node", change.name, ""), None)
        return True

    def do_remove_service(self, change: asked.RemoveService, now_ms: int) -> bool:
        if not self.fits(("service", change.node, change.id), change.cas):
            return False
        self.drop_service(change.node, change.id, now_ms)
        return True

    def do_remove_check(self, change: asked.RemoveCheck, now_ms: int) -> bool:
        if not self.fits(("check", change.node, change.id), change.cas):
            return False
        self.drop_check(change.node, change.id, now_ms)
        return True

    def drop_service(self, node: str, service_id: str, now_ms: int) -> None:
        if self.things.pop(("service", node, service_id), None) is not None:
            for check in self.all("check"):
                if (check["node"], check["service_id"]) == (node, service_id):
                    self.drop_check(node, str(check["id"]), now_ms)

    def drop_check(self, node: str, check_id: str, now_ms: int) -> None:
        if self.things.pop(("check", node, check_id), None) is not None:
            self.check_lost(node, check_id, now_ms)

    def check_lost(self, node: str, check_id: str, now_ms: int) -> None:
        for session in self.all("session"):
            checks = (*session["node_checks"], *session["service_checks"])  # type: ignore[misc]
            if session["node"] == node and check_id in checks:
                self.drop_session(str(session["id"]), now_ms)

    # Sessions

    def do_create_session(self, change: asked.CreateSession, now_ms: int) -> None:
        session = change.session
        name = ("session", session.id, "")
        if name in self.things or ("node", session.node, "") not in self.things:
            raise RefusedError
        for check in (*session.node_checks, *session.service_checks):
            found = self.things.get(("check", session.node, check))
            if found is None or found["status"] == CRITICAL:
                raise RefusedError
        self.things[name] = plain(session)
        if session.ttl_ms:
            self.ends[name] = now_ms + 2 * session.ttl_ms

    def do_renew_session(self, change: asked.RenewSession, now_ms: int) -> bool:
        name = ("session", change.id, "")
        if name in self.ends:
            self.ends[name] = now_ms + 2 * int(str(self.things[name]["ttl_ms"]))
        return name in self.things

    def do_expire_session(self, change: asked.ExpireSession, now_ms: int) -> None:
        if self.ends.get(("session", change.id, "")) == change.expires_ms and change.expires_ms <= now_ms:
            self.drop_session(change.id, now_ms)

    def do_end_session(self, change: asked.EndSession, now_ms: int) -> None:
        self.drop_session(change.id, now_ms)

    def drop_session(self, session_id: str, now_ms: int) -> None:
        session = self.things.pop(("session", session_id, ""), None)
        if session is None:
            return
        for entry in self.all("key"):
            if entry["session"] == session_id:
                if session["lock_delay_ms"]:
                    self.delays[str(entry["key"])] = now_ms + int(str(session["lock_delay_ms"]))
                entry["session"] = FREE
                if session["behavior"] == "delete":
                    del self.things["key", str(entry["key"]), ""]

    # Keys

    def entry(self, key: str) -> dict[str, object]:
        found = self.things.get(("key", key, ""))
        return plain(KvEntry(key)) if found is None else found

    def modified(self, key: str) -> int:
        return self.indexes.get(("key", key, ""), (0, 0))[1]

    def write(self, key: str, **fields: object) -> bool:
        self.things["key", key, ""] = {**self.entry(key), **fields}
        return True

    def do_set_key(self, change: asked.SetKey, now_ms: int) -> bool:
        if change.cas is not None and change.cas != self.modified(change.key):
            return False
        return self.write(change.key, value=change.value, flags=change.flags)

    def do_acquire_key(self, change: asked.AcquireKey, now_ms: int) -> bool:
        if ("session", change.session, "") not in self.things:
            raise RefusedError
        entry = self.entry(change.key)
        if entry["session"] not in (FREE, change.session) or self.delays.get(change.key, 0) > now_ms:
            return False
        count = int(str(entry["lock_index"])) + (entry["session"] == FREE)
        return self.write(change.key, value=change.value, flags=change.flags, session=change.session, lock_index=count)

    def do_release_key(self, change: asked.ReleaseKey, now_ms: int) -> bool:
        if not change.session or self.entry(change.key)["session"] != change.session:
            return False
        return self.write(change.key, value=change.value, flags=change.flags, session=FREE)

    def do_delete_key(self, change: asked.DeleteKey, now_ms: int) -> bool:
        name = ("key", change.key, "")
        if name in self.things and change.cas not in (None, self.modified(change.key)):
            return False
        self.things.pop(name, None)
        return True

    def do_delete_tree(self, change: asked.DeleteTree, now_ms: int) -> None:
        for entry in self.all("key"):
            if str(entry["key"]).startswith(change.prefix):
                del self.things["key", str(entry["key"]), ""]

    def do_check_index(self, change: asked.CheckIndex, now_ms: int) -> None:
        if self.modified(change.key) != change.index:
            raise RefusedError

    def do_check_session(self, change: asked.CheckSession, now_ms: int) -> None:
        if ("key", change.key, "") not in self.things or self.entry(change.key)["session"] != change.session:
            raise RefusedError

    # What the real one must hold

    def rows(self, kind: str) -> list[dict[str, object]]:
        """With the numbers that the registry gives, by name."""
        found = []
        for name in sorted(self.things):
            if name[0] == kind:
                created, modified = self.indexes[name]
                row = {**self.things[name], "create_index": created, "modify_index": modified}
                if kind in ("check", "session"):
                    row["expires_ms"] = self.ends.get(name, 0)
                if kind == "check":
                    row["critical_since_ms"] = self.critical_since.get(name, 0)
                found.append(row)
        return found


def plain(thing: msgspec.Struct) -> dict[str, object]:
    """The fields that who asks has a say in."""
    given = msgspec.structs.asdict(thing)
    for field in ("create_index", "modify_index"):
        given[field] = 0
    if isinstance(thing, Check | Session):
        given["expires_ms"] = 0
    if isinstance(thing, Check):
        given["critical_since_ms"] = 0
    return given
