"""Every error of Noctule, in one tree.

    NoctuleError            code, retryable, outcome
    ├── ConfigError         a setting is wrong: what, where, what to do
    ├── ProtocolError       the peer or client broke the protocol
    ├── UnavailableError    no leader in time, shutting down, overloaded
    ├── RequestError        the request itself cannot be done
    │   └── TooLargeError   over a bound, which is named
    ├── OutcomeUnknownError sent, and no answer: it may have happened
    ├── StorageError        the disk: corrupt, full, failed
    │   └── DamagedLogError what was durable is gone, or not as it was written
    └── InternalError       our bug: report it

`outcome` says whether anything happened: ``not_applied`` or ``unknown``.
"""

from typing import ClassVar, Literal

RETIRED = 12
"""Exit code of a node that no longer belongs to its cluster: starting it again is no use."""

Outcome = Literal["not_applied", "unknown"]


class NoctuleError(Exception):
    """The root: a sentence for a person, and three facts for a program."""

    code: ClassVar[str] = "error"
    retryable: ClassVar[bool] = False
    outcome: ClassVar[Outcome] = "not_applied"
    exit_code: ClassVar[int] = 1


class ConfigError(NoctuleError):
    """A setting is missing, wrong or clashes with what is on disk; nothing was started."""

    code = "config"
    exit_code = 2


class ProtocolError(NoctuleError):
    """The other side sent what the protocol does not allow; the connection is closed."""

    code = "protocol"


class UnavailableError(NoctuleError):
    """Nobody could serve the request within its deadline; nothing was applied, so try again."""

    code = "unavailable"
    retryable = True
    exit_code = 3


class RequestError(NoctuleError):
    """The request cannot be done as it is; trying it again gives the same answer."""

    code = "bad_request"
    exit_code = 4


class TooLargeError(RequestError):
    """Something is over a bound; the sentence names the bound and its value."""

    code = "too_large"


class OutcomeUnknownError(NoctuleError):
    """The request was sent and its answer never came: it may or may not have been applied."""

    code = "outcome_unknown"
    outcome = "unknown"
    exit_code = 5


class StorageError(NoctuleError):
    """The disk failed, is full, or holds something damaged. The node stops acknowledging; it does not guess."""

    code = "storage"
    outcome = "unknown"
    exit_code = 6


class DamagedLogError(StorageError):
    """What a log or a snapshot held is lost: read once more, it is the same. Not for a read that failed."""

    file: str = ""
    byte: int = 0
    """Where it is wrong, as far as that is known."""
    why: str = ""
    """Half a sentence."""

    @classmethod
    def at(cls, file: str, byte: int, why: str) -> "DamagedLogError":
        """The error in words, with its facts."""
        error = cls(
            f"{file} is damaged at byte {byte}: {why}; this node must not vote or acknowledge with what is left"
        )
        error.file, error.byte, error.why = file, byte, why
        return error


class InternalError(NoctuleError):
    """An invariant of Noctule's own does not hold: a bug to report."""

    code = "internal"
    outcome = "unknown"
    exit_code = 70
