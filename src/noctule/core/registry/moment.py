"""When a list of changes is applied."""

from msgspec import Struct, structs

from noctule.core.registry.tables import Indexed


class Moment(Struct, frozen=True):
    """What every change of one list is stamped with."""

    index: int
    """Of the registry, once the list has changed anything."""
    now_ms: int
    """The leader's stamp."""


def stamped(row: Indexed, before: Indexed | None, at: Moment) -> Indexed:
    """The row with its indexes, which are the registry's to give; `before` itself when nothing else differs."""
    if before is None:
        return structs.replace(row, create_index=at.index, modify_index=at.index)
    row = structs.replace(row, create_index=before.create_index, modify_index=before.modify_index)
    return before if row == before else structs.replace(row, modify_index=at.index)
