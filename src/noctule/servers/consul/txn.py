"""Transactions: PUT /v1/txn. All operations take effect at once, or none does.

One that only reads is answered from the registry as it stands. One that writes is one list of changes: what it reads
is read before, and guarded by changes that refuse the list if it has become something else meanwhile; then it is tried
again. What the operations mean is told in txn_steps.py.
"""

from collections.abc import Sequence

from msgspec import Struct

from noctule.base.errors import OutcomeUnknownError, RequestError, TooLargeError
from noctule.core.registry.bounds import TRANSACTION_OPERATIONS_MAX
from noctule.core.registry.changes import Change, change_refused
from noctule.servers.consul.bodies import TxnOp
from noctule.servers.consul.call import Call
from noctule.servers.consul.errors import ConsulError, refused
from noctule.servers.consul.kv import refuse_large_body
from noctule.servers.consul.renderings import Json
from noctule.servers.consul.requests import load_bodies
from noctule.servers.consul.txn_steps import Step, is_write, load_step
from noctule.servers.http_route import Answer

TRIES_MAX = 5
"""How often a list is asked for whose guards have refused it: something else writes what it reads."""


class OpError(Struct, frozen=True, rename={"op_index": "OpIndex", "what": "What"}):
    """Why an operation was not done."""

    op_index: int
    what: str


async def apply_transaction(call: Call) -> Answer:
    """Do up to 64 operations; 409 with the reason when one cannot be done, and then none is."""
    refuse_large_body(call.body, "txn_max_req_len")
    operations = load_bodies(call.body, TxnOp, "Failed to parse body")
    if len(operations) > TRANSACTION_OPERATIONS_MAX:
        counted = f"{len(operations)} > {TRANSACTION_OPERATIONS_MAX}"
        raise ConsulError(413, f"Transaction contains too many operations ({counted})")
    steps = [load_step(operation, call.datacenter) for operation in operations]
    if any(map(is_write, operations)):
        return _answer(call, await _write(call, steps), {})
    await call.refresh()
    outcome = _read(call, steps)
    headers = call.leader_headers()
    known = headers["X-Consul-KnownLeader"] == "true"
    contact = int(headers["X-Consul-LastContact"])
    about: Json = {"Index": 0, "LastContact": contact, "KnownLeader": known, "ConsistencyLevel": ""}
    return _answer(call, outcome, about, headers)


def _answer(
    call: Call, outcome: list[Json] | list[OpError], about: Json, headers: dict[str, str] | None = None
) -> Answer:
    errors = [each for each in outcome if isinstance(each, OpError)]
    results = None if errors else outcome
    return call.json({"Results": results, "Errors": errors or None, **about}, 409 if errors else 200, headers)


def _read(call: Call, steps: Sequence[Step]) -> list[Json] | list[OpError]:
    view = call.state
    reasons = [(number, step.refusal(view)) for number, step in enumerate(steps)]
    if errors := [OpError(number, why) for number, why in reasons if why]:
        return errors
    return [result for step in steps for result in step.results(view)]


async def _write(call: Call, steps: Sequence[Step]) -> list[Json] | list[OpError]:
    await call.registry.catch_up()
    for _ in range(TRIES_MAX):
        changes: list[Change] = []
        owners: list[int] = []
        before: dict[int, list[Json]] = {}
        for number, step in enumerate(steps):
            if step.change is None and not step.is_touched_by(changes):
                if why := step.refusal(call.state):
                    return [OpError(number, why)]
                before[number] = step.results(call.state)
            added = [step.change] if step.change is not None else step.guards(call.state, changes)
            changes += added
            owners += [number] * len(added)
        try:
            await call.registry.change(changes, all_done=True)
        except (TooLargeError, OutcomeUnknownError):
            raise
        except RequestError as error:
            at, why = change_refused(str(error))
            number = owners[at] if at < len(owners) else 0
            why_now = steps[number].refusal(call.state)
            if number in before and not why_now:
                continue  # What it reads was changed meanwhile, and may be read now.
            return [OpError(number, why_now or why)]
        view = call.state
        shown = [before[number] if number in before else step.results(view) for number, step in enumerate(steps)]
        return [result for results in shown for result in results]
    raise refused(f"others wrote what the transaction reads, {TRIES_MAX} times; nothing was done, try again")
