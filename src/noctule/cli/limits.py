"""`noctule limits`: what the rate limits of an app hold against somebody, in the store that they are kept in."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from noctule.cli import output
from noctule.cli.output import JsonOption

if TYPE_CHECKING:
    from noctule.core.limits.picture import SubjectPicture
    from noctule.kits.limiter import Limiter

T = TypeVar("T")

limits = typer.Typer(
    help="Show why somebody is refused by a rate limit, and forget it.", no_args_is_help=True, rich_markup_mode=None
)

Subject = Annotated[
    str,
    typer.Argument(
        help="As in ip:192.0.2.7, ip:2001:db8::/64, user:ada, token:<hash>, route:<policy>.", metavar="SUBJECT"
    ),
]
Store = Annotated[
    str | None,
    typer.Option(help="URL of the store that the app uses.", envvar="NOCTULE_STORE_URL", metavar="URL"),
]
Prefix = Annotated[str, typer.Option(help="Of the limits' keys.", metavar="TEXT")]


@limits.command("show")
def show(subject: Subject, store: Store = None, prefix: Prefix = "rate-limit:", json: JsonOption = False) -> None:
    """Print the counts of a subject, its score of breaches, and whether it is blocked."""
    picture = _ask(store, prefix, lambda limiter: limiter.show(subject))
    if json:
        output.print_json(picture)
        return
    print(_standing(picture))
    rows = [
        (each.policy, f"{each.remaining} of {each.limit}", f"{each.window_s:g} s", f"{each.reset_s:.0f} s")
        for each in picture.policies
    ]
    if rows:
        output.print_table("counts", ("policy", "left", "window", "all back in"), rows)
    else:
        print("nothing is counted")


@limits.command("reset")
def reset(subject: Subject, store: Store = None, prefix: Prefix = "rate-limit:", json: JsonOption = False) -> None:
    """Forget all counts, breaches and blocks of a subject, on every instance at once."""
    keys = _ask(store, prefix, lambda limiter: limiter.reset(subject))
    output.print_json({"subject": subject, "keys": keys}) if json else print(
        f"{subject} is forgotten" if keys else f"nothing was known of {subject}"
    )


def _standing(picture: "SubjectPicture") -> str:
    if picture.blocked_s:
        return f"{picture.subject}: blocked for {picture.blocked_s:.0f} s more (block {picture.blocks} in a row)"
    mode = "in strict mode" if picture.is_strict else "in good standing"
    return f"{picture.subject}: {mode}, score {picture.score:g}"


def _ask(url: str | None, prefix: str, call: "Callable[[Limiter], Awaitable[T]]") -> T:
    """One conversation with the store."""
    from noctule.kits.limiter import Limiter

    async def converse() -> T:
        limiter = Limiter(url, prefix=prefix)
        try:
            return await call(limiter)
        finally:
            await limiter.aclose()

    return asyncio.run(converse())
