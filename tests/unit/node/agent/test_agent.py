"""What is registered at a node outlives it, its checks are made, and the registry says what the node knows."""

import asyncio
import errno
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from msgspec import structs

from noctule.adapters.files import FileSystem
from noctule.base.errors import OutcomeUnknownError, RequestError, StorageError, UnavailableError
from noctule.core.registry.changes import PutCheck, PutService, RemoveService
from noctule.core.registry.definitions import CheckDefinition, ServiceDefinition
from noctule.core.registry.objects import Check, CheckStatus, ServiceInstance
from noctule.node.agent import agent as module
from noctule.node.agent.check_runner import ATTEMPTS_MAX
from noctule.node.agent.local_services import NODE_MAINTENANCE, SERVICE_MAINTENANCE
from tests.unit.node.fake_registry import NODE

from .agent_world import World

PASSING, WARNING, CRITICAL = CheckStatus.PASSING, CheckStatus.WARNING, CheckStatus.CRITICAL
TTL = CheckDefinition("web-ttl", ttl_s=60)
WEB = ServiceDefinition("web-1", "web", tags=("blue",), port=8000, depends_on=("db",), checks=(TTL,))


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    found = World(tmp_path)
    await found.start()
    yield found
    await found.agent.stop()


async def test_a_registration_is_in_the_registry_when_it_returns(world: World) -> None:
    await world.agent.register_service(WEB)
    instance = world.door.view.instances[NODE, "web-1"]
    assert (instance.name, instance.tags, instance.port, instance.depends_on) == ("web", ("blue",), 8000, ("db",))
    check = world.door.view.checks[NODE, "web-ttl"]
    assert (check.status, check.service_name, check.type, check.ttl_ms) == (CRITICAL, "web", "ttl", 0)


async def test_a_report_is_in_the_registry_when_it_returns(world: World) -> None:
    await world.agent.register_service(WEB)
    await world.agent.update_check("web-ttl", PASSING, "12 ms")
    assert world.door.view.checks[NODE, "web-ttl"].status is PASSING
    assert world.door.view.checks[NODE, "web-ttl"].output == "12 ms"


async def test_many_registrations_are_few_changes(world: World) -> None:
    await asyncio.gather(
        *(world.agent.register_service(ServiceDefinition(f"web-{number}", "web")) for number in range(300))
    )
    assert len(world.door.view.instances) == 300
    assert len(world.door.lists) < 10


async def test_a_restart_repairs_the_registry(world: World) -> None:
    """What the node has is put, and what the registry has under its name besides is removed."""
    await world.agent.register_service(WEB)
    await world.agent.register_check(CheckDefinition("disk", tcp="127.0.0.1:1"))
    await world.agent.stop()
    stray = ServiceInstance(NODE, "old-1", "old")
    world.door.apply(RemoveService(NODE, "web-1"), PutService(stray), PutCheck(Check(NODE, "old-check", "old")))
    await world.start()
    await world.until(lambda: (NODE, "old-check") not in world.door.view.checks)
    assert world.door.view.instances.keys() == {(NODE, "web-1")}
    assert world.door.view.checks.keys() == {(NODE, "web-ttl"), (NODE, "disk")}
    assert world.agent.service("web-1") == structs.replace(WEB, checks=(structs.replace(TTL, service_id="web-1"),))


async def test_a_restart_is_no_illness(world: World) -> None:
    """Every instance of a node was critical after its restart, until the first result of each check."""
    await world.agent.register_service(WEB)
    await world.agent.update_check("web-ttl", PASSING)
    await world.agent.stop()
    lists = len(world.door.lists)
    await world.start()
    await world.until(lambda: world.agent.checks()["web-ttl"].status is PASSING)
    assert world.status("web-ttl") is PASSING
    assert len(world.door.lists) == lists


async def test_other_nodes_and_the_check_of_the_keeper_are_left_alone(world: World) -> None:
    await world.agent.stop()
    world.door.apply(PutCheck(Check(NODE, "serfHealth", "alive", PASSING)))
    await world.start()
    await world.agent.register_service(WEB)
    assert world.status("serfHealth") is PASSING


async def test_without_a_leader_a_registration_is_kept_and_follows(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PUSH_S_MAX", 0.05)
    world.door.failure = UnavailableError("no leader")
    await world.agent.register_service(WEB)
    assert not world.door.view.instances
    world.door.failure = None
    await world.until(lambda: (NODE, "web-1") in world.door.view.instances)


async def test_one_that_the_registry_refuses_does_not_keep_the_others_out(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    odd = ServiceDefinition("odd", "odd")
    change = world.door.change

    async def refusing(changes, *, all_done=False):  # type: ignore[no-untyped-def]
        if any(isinstance(each, PutService) and each.service.id == "odd" for each in changes):
            raise RequestError("change 0: odd")
        return await change(changes, all_done=all_done)

    world.door.change = refusing  # type: ignore[method-assign]
    await asyncio.gather(world.agent.register_service(odd), world.agent.register_service(WEB))
    assert world.door.view.instances.keys() == {(NODE, "web-1")}
    assert "registration_refused" in [record.message for record in caplog.records]


async def test_words_alone_are_told_later_and_a_status_at_once(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.start(output_after_s=0.4)
    await world.agent.register_service(WEB)
    await world.agent.update_check("web-ttl", PASSING, "one")
    await world.agent.update_check("web-ttl", PASSING, "two")
    assert world.agent.checks()["web-ttl"].output == "two"
    await asyncio.sleep(0.05)
    assert world.door.view.checks[NODE, "web-ttl"].output == "one"
    await world.until(lambda: world.door.view.checks[NODE, "web-ttl"].output == "two")
    await world.agent.update_check("web-ttl", CRITICAL, "three")
    assert world.door.view.checks[NODE, "web-ttl"].output == "three"
    await world.agent.stop()


async def test_tags_that_others_may_change_are_left_to_them(world: World) -> None:
    await world.agent.register_service(structs.replace(WEB, enable_tag_override=True))
    known = world.door.view.instances[NODE, "web-1"]
    world.door.apply(PutService(structs.replace(known, tags=("green",))))
    await world.agent.register_service(structs.replace(WEB, enable_tag_override=True, port=9000))
    known = world.door.view.instances[NODE, "web-1"]
    assert (known.tags, known.port) == (("green",), 9000)
    await world.agent.register_service(structs.replace(WEB, port=9000))
    assert world.door.view.instances[NODE, "web-1"].tags == ("blue",)


async def test_other_tags_than_before_are_told_whoever_may_change_them(world: World) -> None:
    """By them Patroni says which of its nodes leads; tests/integration/test_patroni.py."""
    await world.agent.register_service(structs.replace(WEB, enable_tag_override=True))
    await world.agent.register_service(structs.replace(WEB, enable_tag_override=True, tags=("primary",)))
    assert world.door.view.instances[NODE, "web-1"].tags == ("primary",)


async def test_checks_stay_unless_they_are_replaced(world: World) -> None:
    await world.agent.register_service(WEB)
    await world.agent.register_check(CheckDefinition("more", service_id="web-1", ttl_s=9))
    await world.agent.update_check("web-ttl", PASSING)
    await world.agent.register_service(structs.replace(WEB, port=1))
    assert set(world.agent.checks()) == {"web-ttl", "more"}
    assert world.agent.checks()["web-ttl"].status is PASSING, "one that is defined as before goes on"
    await world.agent.register_service(WEB, replace_existing_checks=True)
    assert set(world.agent.checks()) == {"web-ttl"}
    assert world.status("more") is None


async def test_what_is_removed_is_gone_for_good(world: World) -> None:
    await world.agent.register_service(WEB)
    await world.agent.register_check(CheckDefinition("disk", ttl_s=5))
    await world.agent.deregister_check("disk")
    await world.agent.deregister_service("web-1")
    assert not world.door.view.instances
    assert not world.door.view.checks
    with pytest.raises(RequestError, match="no service 'web-1'"):
        await world.agent.deregister_service("web-1")
    with pytest.raises(RequestError, match="no check 'disk'"):
        await world.agent.deregister_check("disk")
    await world.agent.stop()
    await world.start()
    assert not world.agent.services()
    assert not world.agent.checks()


async def test_maintenance_is_a_check_that_outlives_the_process(world: World) -> None:
    await world.agent.register_service(WEB)
    await world.agent.set_service_maintenance("web-1", True, "new disk")
    await world.agent.set_node_maintenance(True)
    assert world.status(SERVICE_MAINTENANCE + "web-1") is CRITICAL
    assert world.door.view.checks[NODE, SERVICE_MAINTENANCE + "web-1"].notes == "new disk"
    await world.agent.stop()
    await world.start()
    assert world.agent.checks()[NODE_MAINTENANCE].status is CRITICAL
    await world.agent.set_node_maintenance(False)
    await world.agent.set_service_maintenance("web-1", False)
    assert world.door.view.checks.keys() == {(NODE, "web-ttl")}
    with pytest.raises(RequestError, match="no service 'x'"):
        await world.agent.set_service_maintenance("x", True)


async def test_a_service_that_is_critical_for_too_long_is_removed(world: World) -> None:
    check = structs.replace(TTL, deregister_after_s=0.1)
    await world.agent.register_service(structs.replace(WEB, checks=(check,)))
    await world.agent.update_check("web-ttl", PASSING)
    await asyncio.sleep(0.15)
    assert world.agent.service("web-1") is not None
    await world.agent.update_check("web-ttl", CRITICAL)
    await world.until(lambda: world.agent.service("web-1") is None)
    await world.until(lambda: not world.door.view.instances)


async def test_two_services_cannot_have_one_check(world: World) -> None:
    """Both were planned before either was done, and each took the check for its own."""
    other = ServiceDefinition("db-1", "db", checks=(TTL,))
    results = await asyncio.gather(
        world.agent.register_service(WEB), world.agent.register_service(other), return_exceptions=True
    )
    assert results[0] is None
    assert isinstance(results[1], RequestError)
    assert set(world.agent.services()) == {"web-1"}


async def test_ids_of_the_node_itself_cannot_be_taken(world: World) -> None:
    for taken in ("serfHealth", NODE_MAINTENANCE, SERVICE_MAINTENANCE + "web-1"):
        with pytest.raises(RequestError, match="belongs to the node itself"):
            await world.agent.register_check(CheckDefinition(taken, ttl_s=1))


async def test_a_damaged_file_costs_one_service(world: World, caplog: pytest.LogCaptureFixture) -> None:
    await world.agent.register_service(WEB)
    await world.agent.register_service(ServiceDefinition("db-1", "db"))
    await world.agent.stop()
    path = next(path for path in (world.folder / "agent").iterdir() if b'"web-1"' in path.read_bytes())
    path.write_bytes(path.read_bytes()[:40])
    await world.start()
    assert set(world.agent.services()) == {"db-1"}
    (record,) = [record for record in caplog.records if record.message == "agent_record_unreadable"]
    assert str(path) in str(record.__dict__["fields"])
    assert path.exists(), "it may be mended by hand"


class FullDisk(FileSystem):
    """Has no room for what comes next."""

    is_full = False

    def write(self, descriptor: int, data: bytes, offset: int) -> None:
        if self.is_full:
            raise OSError(errno.ENOSPC, "No space left on device")
        super().write(descriptor, data, offset)


async def test_a_full_disk_refuses_and_changes_nothing(tmp_path: Path) -> None:
    world, files = World(tmp_path), FullDisk()
    await world.start(files)
    await world.agent.register_service(WEB)
    files.is_full = True
    with pytest.raises(StorageError, match="No space left"):
        await world.agent.register_service(structs.replace(WEB, port=1))
    with pytest.raises(StorageError, match="No space left"):
        await world.agent.register_service(ServiceDefinition("db-1", "db"))
    assert world.door.view.instances.keys() == {(NODE, "web-1")}
    await world.agent.stop()
    files.is_full = False
    await world.start(files)
    assert world.agent.services()["web-1"].port == 8000
    await world.agent.register_service(ServiceDefinition("db-1", "db"))
    await world.agent.stop()


async def test_checks_are_made_at_their_interval_so_many_at_once(world: World) -> None:
    world.probes.go_on.clear()
    many = [CheckDefinition(f"c{number}", tcp="127.0.0.1:1", interval_s=0.1) for number in range(ATTEMPTS_MAX + 50)]
    await asyncio.gather(*map(world.agent.register_check, many))
    await world.until(lambda: world.probes.running == ATTEMPTS_MAX)
    await asyncio.sleep(0.15)
    assert world.probes.running_max == ATTEMPTS_MAX
    world.probes.go_on.set()
    await world.until(lambda: all(check.status is PASSING for check in world.agent.checks().values()))
    await world.until(lambda: world.probes.attempts > 2 * len(many))


async def test_the_attempt_of_a_check_that_is_removed_is_given_up(world: World) -> None:
    world.probes.go_on.clear()
    await world.agent.register_check(CheckDefinition("c", tcp="127.0.0.1:1", interval_s=0.1))
    await world.until(lambda: world.probes.running == 1)
    await world.agent.deregister_check("c")
    await world.until(lambda: world.probes.running == 0)


async def test_an_alias_follows_what_it_repeats(world: World) -> None:
    await world.agent.register_service(WEB)
    await world.agent.register_service(
        ServiceDefinition("front-1", "front", checks=(CheckDefinition("alias", alias_service="web-1"),))
    )
    await world.until(lambda: world.status("alias") is CRITICAL)
    await world.agent.update_check("web-ttl", PASSING)
    await world.until(lambda: world.status("alias") is PASSING)
    await world.agent.update_check("web-ttl", WARNING)
    await world.until(lambda: world.status("alias") is WARNING)
    await world.agent.deregister_service("web-1")
    await world.until(lambda: world.status("alias") is CRITICAL)


async def test_after_the_end_nothing_is_registered(world: World) -> None:
    await world.agent.stop()
    with pytest.raises(UnavailableError):
        await world.agent.register_service(WEB)


async def test_attempts_that_hang_do_not_keep_their_places(world: World) -> None:
    """With every place taken by servers that never answer, no attempt was ever given up, and no other check made."""
    world.probes.go_on.clear()
    hanging = [
        CheckDefinition(f"c{number}", tcp="127.0.0.1:1", interval_s=0.1, timeout_s=0.2)
        for number in range(ATTEMPTS_MAX)
    ]
    await asyncio.gather(*map(world.agent.register_check, hanging))
    await world.until(lambda: world.probes.running == ATTEMPTS_MAX)
    await world.agent.register_check(CheckDefinition("waits", tcp="127.0.0.1:1", interval_s=0.1, timeout_s=0.2))
    await world.until(lambda: "no answer" in world.agent.checks()["waits"].output)


async def test_who_was_well_before_a_restart_is_not_removed_for_being_ill(world: World) -> None:
    """The time until its removal began at the restart, when nothing was known yet, and nobody called it off."""
    check = structs.replace(TTL, deregister_after_s=0.15)
    await world.agent.register_service(structs.replace(WEB, checks=(check,)))
    await world.agent.update_check("web-ttl", PASSING)
    await world.agent.stop()
    await world.start()
    await asyncio.sleep(0.3)
    assert world.agent.service("web-1") is not None


async def test_a_bug_ends_the_agent_and_nobody_waits_for_it(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise AssertionError("a bug")

    monkeypatch.setattr(world.agent._local, "put_service", broken)
    with pytest.raises(OutcomeUnknownError, match="while it was written"):
        await world.agent.register_service(WEB)
    with pytest.raises(UnavailableError, match="not running"):
        await world.agent.register_service(WEB)
    assert "agent_failed" in [record.message for record in caplog.records]


class UnsyncedFolder(FileSystem):
    """Does not make names durable from some moment on."""

    is_broken = False

    def sync_directory(self, directory: Path) -> None:
        if self.is_broken:
            raise OSError(errno.EIO, "Input/output error")
        super().sync_directory(directory)


async def test_what_may_be_gone_after_a_crash_is_not_acknowledged(tmp_path: Path) -> None:
    world, files = World(tmp_path), UnsyncedFolder()
    await world.start(files)
    await world.agent.register_service(WEB)
    files.is_broken = True
    with pytest.raises(StorageError, match=r"syncing .*agent failed"):
        await world.agent.register_service(ServiceDefinition("db-1", "db"))
    assert set(world.agent.services()) == {"web-1"}
    await world.agent.stop()


async def test_no_service_is_ever_there_without_its_checks(world: World) -> None:
    """Seen without them, for a moment, it is taken to be well."""
    many = [
        ServiceDefinition(f"web-{number}", "web", checks=(CheckDefinition(f"c-{number}", ttl_s=60),))
        for number in range(500)
    ]
    bare: list[str] = []
    change = world.door.change

    async def looking(changes, *, all_done=False):  # type: ignore[no-untyped-def]
        answers = await change(changes, all_done=all_done)
        view = world.door.view
        bare.extend(id_ for node, id_ in view.instances if not view.checks_of(node, id_))
        return answers

    world.door.change = looking  # type: ignore[method-assign]
    await asyncio.gather(*map(world.agent.register_service, many))
    assert len(world.door.view.instances) == 500
    assert bare == []
