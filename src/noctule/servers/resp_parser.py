"""Bytes of a client to commands: RESP arrays of bulk strings, and inline lines. No I/O here.

It is not `hiredis.Reader`, which parses replies: it takes ``*1\\r\\n+PING\\r\\n`` and maps for commands, and allocates
whatever an array announces, without a way to forbid it: the 13 bytes ``*2147483647\\r\\n`` held the event loop for 4 s.
What this costs instead was measured as about 1 µs for each command.

Sources: the Redis serialization protocol specification; `processMultibulkBuffer`, `processInlineBuffer` and
`sdssplitargs` of Redis 7.0, whose error texts these are.
"""

import re
from typing import Final, TypeAlias

from noctule.base.bounds import ARGUMENTS_MAX, COMMAND_BYTES_MAX, VALUE_BYTES_MAX
from noctule.base.errors import ProtocolError
from noctule.core.keyspace.numbers import parse_int
from noctule.core.keyspace.reply import Failure

LINE_BYTES_MAX: Final = 64 * 1024
"""The longest inline command, and the longest line that announces a length."""
ANNOUNCED_BYTES_MAX: Final = 512 * 1024 * 1024
"""An argument over VALUE_BYTES_MAX and up to this is read past and its command refused; over it the stream ends."""
ANNOUNCED_ARGUMENTS_MAX: Final = 1024 * 1024
"""The same for the number of arguments, above ARGUMENTS_MAX."""

Received: TypeAlias = "list[bytes] | Failure"
"""A command's arguments, at least one; or why the command that stood here was read past and must not run."""


class CommandParser:
    """Turns chunks into commands, however the stream was cut. Holds at most COMMAND_BYTES_MAX and one chunk."""

    __slots__ = (
        "_args",
        "_command_bytes",
        "_held",
        "_held_bytes",
        "_missing",
        "_refusal",
        "_skip_bytes",
        "_wanted_bytes",
        "error",
    )

    def __init__(self) -> None:
        self.error: Failure | None = None
        """Why nothing after the commands returned so far can be understood: answer this and close."""
        self._args: list[bytes] = []
        self._missing = 0
        """How many arguments of the command under way have not come."""
        self._command_bytes = 0
        """What has come of the command under way and is parsed."""
        self._held: list[bytes] = []
        """Chunks not parsed yet, to be joined once they are `_wanted_bytes`: a large value is copied once."""
        self._held_bytes = 0
        self._wanted_bytes = 0
        self._skip_bytes = 0
        """What is still to come of an argument that is read past."""
        self._refusal: Failure | None = None
        """Why the command under way is read past."""

    def feed(self, data: bytes) -> list[Received]:
        """The commands that this chunk completes, in order.

        After garbage `error` is set, and this and further chunks are not read on.
        """
        commands: list[Received] = []
        if self.error is not None:
            return commands
        if self._skip_bytes:
            data = self._skip(data, commands)
        if self._held:
            self._held.append(data)
            self._held_bytes += len(data)
            if self._held_bytes < self._wanted_bytes:
                return commands
            data = b"".join(self._held)
            self._held = []
        elif not self._missing and len(data) <= _SPLIT_BYTES_MAX and _split(data, commands):
            return commands
        try:
            self._parse(data, commands)
        except ProtocolError as error:
            self.error = Failure(f"ERR Protocol error: {error}".encode("latin-1"))
        return commands

    def _parse(self, data: bytes, commands: list[Received]) -> None:
        # The hot path of every command: lengths up to 1,024 are looked up with their line, not parsed.
        find, counts, sizes, total = data.find, _COUNTS, _SIZES, len(data)
        args, missing, earlier_bytes = self._args, self._missing, self._command_bytes
        position = command_start = 0
        wanted_bytes = 0
        while position < total:
            if not missing:
                command_start = position
                earlier_bytes = 0
                end = find(b"\r\n", position)
                missing = counts.get(data[position:end], 0) if end >= 0 else 0
                if missing:
                    position = end + 2
                else:
                    position, missing = self._begin(data, position, commands)
                    if not missing:
                        if position == command_start:
                            break
                        continue
            while missing:
                end = find(b"\r\n", position)
                if end < 0:
                    if total - position > LINE_BYTES_MAX:
                        raise ProtocolError("too big bulk count string")
                    break
                size = sizes.get(data[position:end], -1)
                if size < 0:
                    size = _parse_size(data[position:end])
                start = end + 2
                stop = start + size
                if stop + 2 > total:
                    if self._is_refused(size, earlier_bytes + stop - command_start):
                        self._skip_bytes = stop + 2 - total
                        missing -= 1
                        position = total
                    wanted_bytes = stop + 2 - position
                    break
                args.append(data[start:stop])
                position = stop + 2
                missing -= 1
            else:
                commands.append(self._refusal or args)
                self._refusal = None
                args = []
                continue
            break
        self._missing = missing
        self._command_bytes = earlier_bytes + position - command_start if missing else 0
        if self._is_refused(0, self._command_bytes):
            args = []
        self._args = args
        if position < total:
            self._held = [data[position:]]
            self._held_bytes = total - position
            self._wanted_bytes = wanted_bytes

    def _begin(self, data: bytes, position: int, commands: list[Received]) -> tuple[int, int]:
        """Read the first line of a command that `_COUNTS` does not know: an inline command, a rare count, or garbage.

        Returns the position behind it and the number of arguments to come; the same position when it is not whole.
        """
        end = data.find(b"\n", position)
        is_array = data.startswith(b"*", position)
        if (end if end >= 0 else len(data)) - position > LINE_BYTES_MAX:
            raise ProtocolError("too big mbulk count string" if is_array else "too big inline request")
        if end < 0:
            return position, 0
        line = data[position:end].removesuffix(b"\r")
        if not is_array:
            args = split_inline(line)
            if args:
                commands.append(args)
            return end + 1, 0
        count = parse_int(line[1:])
        if count is None or count > ANNOUNCED_ARGUMENTS_MAX:
            raise ProtocolError("invalid multibulk length")
        if count > ARGUMENTS_MAX:
            self._refusal = Failure(b"ERR too many arguments: %d, ARGUMENTS_MAX is %d" % (count, ARGUMENTS_MAX))
        return end + 1, max(count, 0)

    def _is_refused(self, size: int, command_bytes: int) -> bool:
        """Whether the command under way is read past, which an argument of `size` bytes now may be the reason for."""
        if self._refusal is None and size > VALUE_BYTES_MAX:
            self._refusal = Failure(b"ERR argument of %d bytes, VALUE_BYTES_MAX is %d" % (size, VALUE_BYTES_MAX))
        elif self._refusal is None and command_bytes > COMMAND_BYTES_MAX:
            text = b"ERR command of at least %d bytes, COMMAND_BYTES_MAX is %d"
            self._refusal = Failure(text % (command_bytes, COMMAND_BYTES_MAX))
        return self._refusal is not None

    def _skip(self, data: bytes, commands: list[Received]) -> bytes:
        """Drop what belongs to an argument that is read past; what is behind it is returned."""
        skipped = min(len(data), self._skip_bytes)
        self._skip_bytes -= skipped
        if not self._skip_bytes and not self._missing and self._refusal is not None:
            commands.append(self._refusal)
            self._refusal = None
        return data[skipped:]


def _split(data: bytes, commands: list[Received]) -> bool:
    """Read a chunk of whole commands, none of which holds a line break: nearly every chunk, and in half the time.

    False, and nothing is read, when it is another one.
    """
    lines, counts, sizes = data.split(b"\r\n"), _COUNTS.get, _SIZES.get
    position, last = 0, len(lines) - 1
    found: list[Received] = []
    while position < last:
        count = counts(lines[position])
        if count is None:
            return False
        end = position + 2 * count + 1
        args = lines[position + 2 : end : 2]
        if len(args) != count:
            return False
        for argument in args:
            position += 1
            if sizes(lines[position]) != len(argument):
                return False
            position += 1
        found.append(args)
        position = end
    if position != last or lines[last]:
        return False
    commands += found
    return True


def split_inline(line: bytes) -> list[bytes]:
    """The words of an inline command, quoted as in Redis: ``"\\x41\\n"``, ``'it\\'s'``. Raises `ProtocolError`."""
    if b'"' not in line and b"'" not in line:
        return line.split()
    words = []
    position = 0
    line = line.strip()
    while position < len(line):
        match = _WORD.match(line, position)
        if match is None:
            raise ProtocolError("unbalanced quotes in request")
        plain, double, single = match.groups(b"")
        words.append(plain + _ESCAPE.sub(_unescape, double) + single.replace(b"\\'", b"'"))
        position = match.end()
    return words


def _unescape(match: re.Match[bytes]) -> bytes:
    digits, symbol = match.groups()
    return bytes.fromhex(digits.decode()) if digits else _ESCAPED.get(symbol, symbol)


def _parse_size(line: bytes) -> int:
    if not line.startswith(b"$"):
        raise ProtocolError(f"expected '$', got '{line[:1].decode('latin-1') or ' '}'")
    size = parse_int(line[1:])
    if size is None or not 0 <= size <= ANNOUNCED_BYTES_MAX:
        raise ProtocolError("invalid bulk length")
    return size


_SPLIT_BYTES_MAX: Final = 16 * 1024
"""A longer chunk is for a long value, or it is so many commands that the first are better answered before the last."""
_COUNTS = {b"*%d" % count: count for count in range(1, 1_025)}
_SIZES = {b"$%d" % size: size for size in range(1_025)}
_WORD = re.compile(rb"""([^\s"']*)(?:"((?:\\.|[^"\\])*)"|'((?:\\'|[^'])*)')?(?:\s+|\Z)""")
_ESCAPE = re.compile(rb"\\(?:x([0-9a-fA-F]{2})|(.))")
_ESCAPED = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\b", b"a": b"\a"}
