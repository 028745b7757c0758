"""Quorum arithmetic as pure functions of plain values."""

from collections.abc import Collection, Mapping
from enum import StrEnum


class VoteResult(StrEnum):
    """What the votes counted so far amount to."""

    WON = "won"
    LOST = "lost"
    PENDING = "pending"


def majority(voter_count: int) -> int:
    """The smallest number of voters of which any two sets overlap."""
    return voter_count // 2 + 1


def committed_index(voters: Collection[int], matched: Mapping[int, int]) -> int:
    """The highest index that a majority of the voters has, 0 being that of one that is not in `matched`; 0 without
    voters."""
    ordered = sorted([matched.get(voter, 0) for voter in voters], reverse=True)
    return ordered[len(ordered) // 2] if ordered else 0


def vote_result(voters: Collection[int], votes: Mapping[int, bool]) -> VoteResult:
    """Whether the votes of these voters win, lose or decide nothing yet; votes of others do not count."""
    granted = sum(1 for voter in voters if votes.get(voter) is True)
    refused = sum(1 for voter in voters if votes.get(voter) is False)
    needed = majority(len(voters))
    if granted >= needed:
        return VoteResult.WON
    return VoteResult.LOST if len(voters) - refused < needed else VoteResult.PENDING
