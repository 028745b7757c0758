"""`noctule rebalance`: what would be moved and why, beginning it now, pausing it."""

from typing import TYPE_CHECKING, Annotated

import typer

from noctule.base.errors import ConfigError
from noctule.cli import output
from noctule.cli.asking import ask
from noctule.cli.output import NODE_URL, JsonOption, NodeOption

if TYPE_CHECKING:
    from noctule.core.placement.picture import Plan


def rebalance(
    node: NodeOption = NODE_URL,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be moved, and why.")] = False,
    pause: Annotated[bool, typer.Option("--pause", help="From now on move nothing but what repairs.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="From now on balance by itself again.")] = False,
    json: JsonOption = False,
) -> None:
    """Spread replicas and leaders evenly: show the plan, begin it now, pause or resume it.

    Without a flag it begins as much as may be on its way at one time, also while rebalancing is paused. A cluster does
    this by itself unless it is paused, and replaces dead nodes even then.
    """
    if dry_run + pause + resume > 1:
        raise ConfigError("say one of --dry-run, --pause and --resume")
    if dry_run:
        plan = ask(node, lambda client: client.plan())
        output.print_json(plan) if json else show_plan(plan)
    elif pause or resume:
        settings = ask(node, lambda client: client.change_settings({"rebalance_enabled": resume}))
        if json:
            output.print_json({"rebalance_enabled": settings.rebalance_enabled})
        else:
            print("rebalancing goes on" if settings.rebalance_enabled else "rebalancing is paused")
    else:
        begun = ask(node, lambda client: client.rebalance())
        if json:
            output.print_json(begun)
            return
        moves, leaders = len(begun.migrations), begun.leader_moves
        if not moves and not leaders and not begun.left:
            print("there is nothing to move")
            return
        print(f"begun: {moves} migration{'s' * (moves != 1)}, {leaders} change{'s' * (leaders != 1)} of leader")
        for sentence in begun.refused:
            output.say(f"not begun: {sentence}")
        if begun.left:
            output.say(f"{begun.left} more of the plan; noctule migrate status --watch shows how it gets on")


def show_plan(plan: "Plan") -> None:
    """Print a plan as tables."""
    rows: list[tuple[object, ...]] = [
        (move.partition, move.source or "added", move.target or "dropped", move.reason) for move in plan.moves
    ]
    rows += [(change.partition, "leader", change.to, change.reason) for change in plan.leader_moves]
    if rows:
        output.print_table(f"{len(rows)} moves", ("partition", "from", "to", "why"), rows)
    else:
        print("there is nothing to move")
    for blocked in plan.blocked:
        print(f"blocked: {blocked.sentence}")
