"""What is asked of the registry: one list of changes is one operation."""

from noctule.core.meta.objects import Objects
from noctule.core.meta.operations import ChangeRegistry
from noctule.core.meta.roster_operations import require_feature, require_formed
from noctule.core.registry.registry import Answered
from noctule.core.roster.features import REGISTRY


def change_registry(objects: Objects, operation: ChangeRegistry, now_ms: int) -> list[Answered]:
    """See `ChangeRegistry`."""
    require_formed(objects)
    require_feature(objects, REGISTRY)
    return objects.change_registry(operation.changes, now_ms, all_done=operation.all_done)
