"""Operations on their way to *meta*: one for each purpose, and what is told to whoever asked."""

import asyncio
import logging

import pytest

from noctule.base.errors import OutcomeUnknownError, RequestError, UnavailableError
from noctule.base.ids import Instant
from noctule.core.keyspace.reply import Failure, Reply
from noctule.core.meta.operations import OpenFeature, Operation, decode_operation, encode_answer
from noctule.node.api import ReplySink
from noctule.node.proposals import AGAIN_S, Proposals, ask_meta

SPLIT, MERGE = OpenFeature("split"), OpenFeature("merge")
REFUSED = Failure(b"REFUSED it is open")


class Meta:
    """Keeps what it is asked for."""

    def __init__(self) -> None:
        self.now = Instant(10.0)
        self.asked: list[tuple[Operation, ReplySink]] = []
        self.proposals = Proposals(self.submit, lambda: self.now)

    def submit(self, args: list[bytes], sink: ReplySink) -> None:
        self.asked.append((decode_operation(args[1]), sink))


def test_one_is_on_its_way_for_each_purpose() -> None:
    meta = Meta()
    assert meta.proposals.propose("a", SPLIT)
    assert not meta.proposals.propose("a", SPLIT)
    assert meta.proposals.propose(("b", 1), MERGE)
    meta.now = Instant(1e9)
    assert not meta.proposals.propose("a", SPLIT)
    assert [operation for operation, _ in meta.asked] == [SPLIT, MERGE]


@pytest.mark.parametrize("reply", [encode_answer(None, 1), REFUSED, Failure(b"UNKNOWN no answer")])
def test_after_an_answer_a_purpose_waits_for_the_map_to_follow(reply: Reply) -> None:
    """Whatever was answered: it is asked again a moment later by whoever sees that it is still to be done."""
    meta, heard = Meta(), list[Reply]()
    meta.proposals.propose("a", SPLIT, heard.append)
    meta.asked[0][1].deliver(reply)
    assert heard == [reply]
    assert not meta.proposals.propose("a", SPLIT)
    meta.now = Instant(meta.now + AGAIN_S)
    assert meta.proposals.propose("a", SPLIT)


def test_a_refusal_is_told_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    meta = Meta()
    with caplog.at_level(logging.DEBUG, logger="noctule.node"):
        meta.proposals.propose("a", SPLIT)
        meta.asked[0][1].deliver(REFUSED)
    (record,) = caplog.records
    fields = {"operation": "OpenFeature", "reason": "REFUSED it is open"}
    assert (record.message, vars(record)["fields"]) == ("operation_refused", fields)


def test_purposes_that_are_over_are_forgotten_and_those_on_their_way_are_not() -> None:
    """Each move has its own purpose, and a cluster that lives for years has many."""
    meta = Meta()
    meta.proposals.propose("waits", SPLIT)
    for number in range(3_000):
        meta.proposals.propose(number, SPLIT)
        meta.asked.pop()[1].deliver(encode_answer(None, 1))
        meta.now = Instant(meta.now + AGAIN_S)
    assert len(meta.proposals._not_before) < 1_100
    assert not meta.proposals.propose("waits", SPLIT)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (encode_answer(7, 1), (1, 7)),
        (encode_answer("id", 1), (1, "id")),
        (encode_answer(None, 1), (1, None)),
        (REFUSED, RequestError),
        (Failure(b"CLUSTERDOWN no leader"), UnavailableError),
        (Failure(b"OVERLOADED too many"), UnavailableError),
        (Failure(b"UNKNOWN no answer"), OutcomeUnknownError),
    ],
)
async def test_who_asks_is_answered_or_told_whether_anything_happened(reply: Reply, expected: object) -> None:
    meta = Meta()
    asking = asyncio.create_task(ask_meta(meta.submit, SPLIT))
    await asyncio.sleep(0)
    meta.asked[0][1].deliver(reply)
    if isinstance(expected, type) and issubclass(expected, Exception):
        with pytest.raises(expected):
            await asking
    else:
        assert await asking == expected


async def test_an_answer_to_somebody_who_went_away_is_dropped() -> None:
    meta = Meta()
    asking = asyncio.create_task(ask_meta(meta.submit, SPLIT))
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    meta.asked[0][1].deliver(encode_answer(1, 1))
