"""The errors that several commands answer, verbatim as Redis 7.0 words them."""

from noctule.base.bounds import VALUE_BYTES_MAX
from noctule.core.keyspace.reply import Failure

WRONG_TYPE = Failure(b"WRONGTYPE Operation against a key holding the wrong kind of value")
SYNTAX = Failure(b"ERR syntax error")
NOT_AN_INTEGER = Failure(b"ERR value is not an integer or out of range")
NOT_A_FLOAT = Failure(b"ERR value is not a valid float")
NOT_POSITIVE = Failure(b"ERR value is out of range, must be positive")
NOT_A_SCORE = Failure(b"ERR resulting score is not a number (NaN)")
NOT_A_SCORE_RANGE = Failure(b"ERR min or max is not a float")
NOT_A_LEX_RANGE = Failure(b"ERR min or max not valid string range item")
NO_NUMBER_OF_KEYS = Failure(b"ERR numkeys should be greater than 0")
TOO_MANY_KEYS = Failure(b"ERR Number of keys can't be greater than number of args")
NEGATIVE_LIMIT = Failure(b"ERR LIMIT can't be negative")
OVERFLOW = Failure(b"ERR increment or decrement would overflow")
NOT_FINITE = Failure(b"ERR increment would produce NaN or Infinity")
INVALID_CURSOR = Failure(b"ERR invalid cursor")
NO_SUCH_KEY = Failure(b"ERR no such key")
CROSS_SLOT = Failure(b"CROSSSLOT Keys in request don't hash to the same slot")
STRING_TOO_LONG = Failure(b"ERR string exceeds maximum allowed size (VALUE_BYTES_MAX, %d bytes)" % VALUE_BYTES_MAX)


def wrong_arity(name: bytes) -> Failure:
    """For a command, by its name in any case, that was given too few or too many arguments."""
    return Failure(b"ERR wrong number of arguments for '%b' command" % name.lower())


def invalid_expire_time(name: bytes) -> Failure:
    """For a time to live that is not positive, or that does not fit 64 bits once it is an absolute time in ms."""
    return Failure(b"ERR invalid expire time in '%b' command" % name.lower())
