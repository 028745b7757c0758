"""What goes wrong with a request: the attempts that failed, whether another follows, what the client is told if not."""

import logging
from typing import TYPE_CHECKING

from noctule.gateway import answers
from noctule.gateway.answers import Answer
from noctule.gateway.pool import Flight
from noctule.gateway.traffic import Plan

if TYPE_CHECKING:
    from noctule.gateway.exchange import Exchange

NOBODY_HEALTHY = answers.unavailable("no instance of the app is healthy")
NOBODY_REACHED = answers.unavailable("no instance of the app could be reached")

log = logging.getLogger("noctule.gateway")


class Failures:
    """The failed attempts of one request. It is made with the first of them: most requests have none."""

    __slots__ = ("_stale", "tried", "was_lost")

    def __init__(self) -> None:
        self.tried: frozenset[str] = frozenset()
        """Instances that have had an attempt and failed it."""
        self.was_lost = False
        """An instance may have acted on it, and its answer is lost."""
        # An instance that closed a kept connection: not to blame, and good for a fresh one if there is no other.
        self._stale = ""

    def add(self, instance_id: str, *, was_lost: bool = False, is_stale: bool = False) -> None:
        """One more attempt failed; `is_stale`: on a kept connection that may have been closed just before."""
        self.tried = self.tried | {instance_id}
        self.was_lost = self.was_lost or was_lost
        if is_stale:
            self._stale = instance_id

    def next_flight(self, plan: Plan, attempts: int) -> Flight | None:
        """For another attempt after so many, if there may be one."""
        if attempts >= 1 + plan.service.retries_max:
            return None
        stale, self._stale = self._stale, ""
        if not stale and not plan.may_retry():
            return None
        flight = plan.next(self.tried)
        if flight is None and stale:
            # Once: the fresh connection's failure is the instance's own.
            flight = plan.next(self.tried - {stale})
        return flight

    def answer(self, exchange: "Exchange") -> Answer:
        """What the client is told when no other attempt follows."""
        return lost_answer(exchange) if self.was_lost else NOBODY_REACHED


def lost_answer(exchange: "Exchange") -> Answer:
    """For a request that an instance may have acted on, and that is not sent again."""
    return answers.connection_lost(is_idempotent=exchange.is_idempotent, is_safe=exchange.is_safe)


def log_refusal(exchange: "Exchange", answer: Answer) -> None:
    """The gateway answers by itself."""
    level = logging.WARNING if answer.status >= 500 else logging.INFO
    if log.isEnabledFor(level):
        fields = {
            "request_id": exchange.request_id.decode(),
            "method": exchange.head.method,
            "status": answer.status,
            "code": answer.code,
            "attempts": exchange.attempts,
            "tried": sorted(exchange.tried),
        }
        log.log(level, "request_refused", extra=fields)


def log_attempt(exchange: "Exchange", instance_id: str, reason: str) -> None:
    """An instance has had its attempt, and another may have one."""
    fields = {"request_id": exchange.request_id.decode(), "instance": instance_id, "reason": reason}
    log.info("attempt_failed", extra={**fields, "attempt": exchange.attempts})


def log_cut(exchange: "Exchange", instance_id: str, reason: str) -> None:
    """A response breaks off half way."""
    fields = {"request_id": exchange.request_id.decode(), "instance": instance_id, "reason": reason}
    log.warning("response_cut", extra=fields)
