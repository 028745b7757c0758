"""The client of failover.py: writes as fast as it is answered, each request sent once and never again.

A client library would send again by itself and so hide what is measured here; this one is a socket.
"""

import socket
import threading
import time
from typing import NamedTuple, Self

import hiredis
from ledger import Ledger

ANSWER_S_MAX = 15.0
"""A node gives up after 10 s and says so; silence for longer is a failed write."""
RECONNECT_S = 0.01
"""A node that refuses connections is not asked a hundred thousand times."""


class Acknowledged(NamedTuple):
    """One acknowledged write, by the monotonic clock in seconds."""

    sent_at: float
    answered_at: float


class Writer:
    """Writes through one node in a thread while the ``with`` block runs, one request at a time."""

    def __init__(self, host: str, port: int, ledger: Ledger) -> None:
        self.acknowledged: list[Acknowledged] = []
        self._address = host, port
        self._ledger = ledger
        self._connection: _Connection | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write, name="writer")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Return once the last request is answered, at most `ANSWER_S_MAX` later; the ledger is then complete."""
        self._stop.set()
        self._thread.join()

    def first_sent_after(self, instant: float) -> Acknowledged | None:
        """The first acknowledged write whose request was sent after `instant`; None until there is one."""
        return next((write for write in self.acknowledged if write.sent_at > instant), None)

    def _write(self) -> None:
        while not self._stop.is_set():
            words, note = self._ledger.next_write()
            sent_at = time.monotonic()
            reply = self._ask(words)
            answered_at = time.monotonic()
            if note(reply):
                self.acknowledged.append(Acknowledged(sent_at, answered_at))
        if self._connection is not None:
            self._connection.close()

    def _ask(self, words: tuple[str, ...]) -> object:
        """The answer, an error reply among them; None when it was lost with its connection."""
        try:
            self._connection = self._connection or _Connection(self._address)
            return self._connection.ask(words)
        except OSError:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            self._stop.wait(RECONNECT_S)
            return None


class _Connection:
    """RESP on a socket; every failure is an `OSError`."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._socket = socket.create_connection(address, timeout=ANSWER_S_MAX)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = hiredis.Reader()

    def ask(self, words: tuple[str, ...]) -> object:
        """Send one command and wait for its answer."""
        self._socket.sendall(hiredis.pack_command(words))  # type: ignore[arg-type]  # Its stub says one word only.
        # The reader's False means that the answer is not whole yet.
        while (reply := self._reader.gets()) is False:
            data = self._socket.recv(65_536)
            if not data:
                raise ConnectionResetError("the node closed the connection")
            self._reader.feed(data)
        return reply

    def close(self) -> None:
        """Hang up."""
        self._socket.close()
