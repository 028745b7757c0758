"""A file on its way through the app: taken in once, so that it can be sent twice, and seen before it is sent.

Up to `MEMORY_BYTES_MAX` it is in memory, beyond that in a temporary file without a name, so a killed process leaves
nothing behind.
"""

import asyncio
import hashlib
import tempfile
from collections.abc import AsyncIterable, AsyncIterator
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from noctule.base.errors import StorageError, TooLargeError
from noctule.kits.files.content import HEAD_BYTES

MEMORY_BYTES_MAX = 1024 * 1024


class Spool:
    """One file; to be used in a ``with``, after which it is gone."""

    def __init__(self) -> None:
        self._memory = bytearray()
        self._file: IO[bytes] | None = None
        self._digest = hashlib.sha256()
        self.size_bytes = 0
        self.head = b""
        """The first bytes, by which `content.sniff` tells what it is."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._file is not None:
            self._file.close()

    @property
    def sha256(self) -> str:
        """Of what was taken in, hexadecimal."""
        return self._digest.hexdigest()

    @property
    def body(self) -> bytes | Path:
        """What obstore sends; each use reads it from the beginning, by a file position of its own."""
        return bytes(self._memory) if self._file is None else Path(f"/proc/self/fd/{self._file.fileno()}")

    async def take(self, data: bytes | AsyncIterable[bytes], bytes_max: int) -> None:
        """Take it in whole. Raises `TooLargeError` over `bytes_max`, `StorageError` when the disk has no room."""
        async for piece in _pieces(data):
            self.size_bytes += len(piece)
            if self.size_bytes > bytes_max:
                raise TooLargeError(f"the file is over {bytes_max} bytes, which is the limit")
            self.head += piece[: HEAD_BYTES - len(self.head)]
            self._digest.update(piece)
            if self._file is None and self.size_bytes <= MEMORY_BYTES_MAX:
                self._memory += piece
            else:
                await asyncio.to_thread(self._write, piece)

    def _write(self, piece: bytes) -> None:
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - closed by __exit__
                self._write_all(self._memory)
                self._memory.clear()
            self._write_all(piece)
        except OSError as error:
            raise StorageError(
                f"a file on its way cannot be held in {tempfile.gettempdir()}: {error.strerror}"
            ) from None

    def _write_all(self, data: bytes | bytearray) -> None:
        assert self._file is not None
        view = memoryview(data)
        while view:
            written = self._file.write(view)
            view = view[written:]
        view.release()


async def _pieces(data: bytes | AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    if isinstance(data, bytes):
        yield data
        return
    async for piece in data:
        yield piece
