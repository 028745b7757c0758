"""A request's body on its way to an instance: bounded, streamed, and held back only where a retry may need it.

A small body of known length is read whole before an instance is chosen: it costs one buffer of 64 KiB, spares the
instance a slow client, and can be sent again. A chunked body is read ahead only for a method that may be repeated;
otherwise it may be one half of a conversation and passes piece by piece. Trailers are dropped.
"""

BUFFER_BYTES_MAX = 64 * 1024
"""The longest body that is held for a retry; and what is held of any while there is nobody to give it to."""


class RequestBody:
    """The body of one request: what has come and is held, and whether all of it is."""

    __slots__ = ("_pieces", "held_bytes", "is_complete", "is_given", "taken_bytes")

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self.held_bytes = 0
        self.taken_bytes = 0
        self.is_complete = False
        self.is_given = False
        """A part has left that is not held any more."""

    @property
    def is_repeatable(self) -> bool:
        """Whether every attempt would send the same: all of it has come, and all of it is held."""
        return self.is_complete and not self.is_given

    @property
    def is_over_buffer(self) -> bool:
        """Whether as much is held as may be."""
        return self.held_bytes > BUFFER_BYTES_MAX

    def add(self, piece: bytes) -> None:
        """A piece has come."""
        self._pieces.append(piece)
        self.held_bytes += len(piece)
        self.taken_bytes += len(piece)

    def give(self) -> list[bytes]:
        """What is held, in order. It stays held if it is the whole body and short enough, and is let go otherwise."""
        pieces = self._pieces
        if pieces and not (self.is_repeatable and self.held_bytes <= BUFFER_BYTES_MAX):
            self._pieces = []
            self.held_bytes = 0
            self.is_given = True
        return pieces


def is_read_ahead(*, length: int | None, is_idempotent: bool) -> bool:
    """Whether a body is read, as far as the buffer goes, before an instance is chosen."""
    if length is None:
        return is_idempotent
    return length <= BUFFER_BYTES_MAX
