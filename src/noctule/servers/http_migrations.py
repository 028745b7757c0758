"""What goes on with partitions over HTTP: migrations, splits and merges, and the plan of what would be moved next."""

from msgspec import Struct

from noctule.base.errors import RequestError
from noctule.core.meta.operations import AdvanceMigration, BeginMigration, PreferLeader
from noctule.core.meta.views import OperationView, running_operations, view_migration, view_operations
from noctule.core.migration.stages import ENDED, NEXT, Migration, Stage
from noctule.servers.http_errors import NotFoundError
from noctule.servers.http_parameters import MIGRATION_ID, RUNNING
from noctule.servers.http_route import Answer, Call, json_answer

CANCELLED = "cancelled by an operator"


class OperationList(Struct, frozen=True):
    """Migrations, splits and merges: those on their way, and the last few hundred that have ended; the newest last."""

    migrations: list[OperationView]


class RebalanceBegun(Struct, frozen=True):
    """What was begun of a plan."""

    migrations: list[int]
    """Their ids."""
    leader_moves: int
    """Partitions that another of their replicas is to lead from now on."""
    left: int
    """Moves of the plan that were not begun, for the limit of concurrent ones or because they were refused."""
    refused: list[str]


async def list_migrations(call: Call) -> Answer:
    """All that goes on, and what is remembered."""
    cluster = call.node.cluster
    if call.get(RUNNING):
        return json_answer(OperationList(list(running_operations(cluster.meta, cluster.board))))
    return json_answer(OperationList(view_operations(cluster.meta, cluster.board)))


async def get_migration(call: Call) -> Answer:
    """One migration."""
    return json_answer(view_migration(call.node.cluster.board, _migration(call)))


async def cancel_migration(call: Call) -> Answer:
    """Have it go back; refused once the target votes, for from there on there is only forward."""
    migration = _migration(call)
    if migration.stage in ENDED:
        raise RequestError(f"migration {migration.id} has ended: {migration.stage}")
    if Stage.ROLLBACK not in NEXT[migration.stage]:
        raise RequestError(f"migration {migration.id} is in stage {migration.stage}, which cannot be taken back")
    await call.node.cluster.operate(AdvanceMigration(migration.id, migration.stage, Stage.ROLLBACK, CANCELLED))
    return json_answer(view_migration(call.node.cluster.board, _migration(call)))


async def get_plan(call: Call) -> Answer:
    """Everything that would be moved, and nothing of it is done."""
    return json_answer(call.node.cluster.plan())


async def rebalance(call: Call) -> Answer:
    """Begin what comes first in the plan, as much as may be on its way at one time; also while that is paused."""
    cluster = call.node.cluster
    plan = cluster.plan()
    room = max(cluster.meta.settings.migrations_concurrent_max - cluster.meta.migrations_running, 0)
    begun: list[int] = []
    refused: list[str] = []
    for move in plan.moves[:room]:
        try:
            given = await cluster.operate(BeginMigration(move.partition, move.source, move.target, move.reason))
        except RequestError as error:
            # Somebody was faster; the others of the plan may still do.
            refused.append(str(error))
        else:
            begun += [given] if isinstance(given, int) else []
    leaders = 0
    for change in plan.leader_moves:
        try:
            await cluster.operate(PreferLeader(change.partition, change.to))
        except RequestError as error:
            refused.append(str(error))
        else:
            leaders += 1
    return json_answer(RebalanceBegun(begun, leaders, len(plan.moves) - len(begun), refused))


def _migration(call: Call) -> Migration:
    number = call.get(MIGRATION_ID)
    found = call.node.cluster.meta.migrations.get(number)
    if found is None:
        raise NotFoundError(f"there is no migration {number}, or it ended long ago")
    return found
