"""A WebSocket on its way through the gateway: messages both ways, and the end of one side is the end of the other.

Messages pass whole (each bounded), pings and pongs go to whom they are meant for, and a close arrives with the code
and reason it was sent with. Compression is not offered to either side: it would only be undone here.
"""

import asyncio
from dataclasses import dataclass

import aiohttp
from aiohttp import WSCloseCode, WSMsgType, web

CLOSE_TIMEOUT_S = 1.0
"""How long a side may take to answer a close; then its connection is closed without."""

Side = web.WebSocketResponse | aiohttp.ClientWebSocketResponse


@dataclass(frozen=True, slots=True)
class Ending:
    """How a side ended, as the other is told."""

    code: int
    reason: bytes = b""
    is_lost: bool = False
    """It went without a word."""


async def relay(client: web.WebSocketResponse, instance: aiohttp.ClientWebSocketResponse, cut: asyncio.Event) -> Ending:
    """Pass messages until one side ends, then end the other; returns how it ended.

    An instance that dies ends the client with 1014 (bad gateway), a client that vanishes ends the instance with 1001
    (going away), and `cut` ends both with 1001. Memory: one message for each direction.
    """
    upward = asyncio.create_task(_pass_on(client, instance, *_CLIENT_THEN_INSTANCE), name="websocket-upward")
    downward = asyncio.create_task(_pass_on(instance, client, *_INSTANCE_THEN_CLIENT), name="websocket-downward")
    cutting = asyncio.create_task(_wait_cut(cut), name="websocket-cut")
    tasks = (upward, downward, cutting)
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        # Also when this task is cancelled because the client's connection closed: it may have said why before.
        ending = _first_ending(tasks)
        for task in tasks:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        # Both at once, so that a side that does not answer its close does not delay the other's.
        await asyncio.gather(
            client.close(code=ending.code, message=ending.reason),
            instance.close(code=ending.code, message=ending.reason),
            return_exceptions=True,
        )
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome
    return ending


def _first_ending(tasks: tuple[asyncio.Task[Ending], ...]) -> Ending:
    endings = [task.result() for task in tasks if task.done() and not task.cancelled() and task.exception() is None]
    # When both sides ended in one moment, one was told and the other only noticed. None: the client vanished.
    return min(endings, key=lambda ending: ending.is_lost, default=Ending(WSCloseCode.GOING_AWAY, is_lost=True))


async def _wait_cut(cut: asyncio.Event) -> Ending:
    await cut.wait()
    return Ending(WSCloseCode.GOING_AWAY)


# What the other side is told when the source, or the target, has vanished.
_CLIENT_THEN_INSTANCE = (WSCloseCode.GOING_AWAY, WSCloseCode.BAD_GATEWAY)
_INSTANCE_THEN_CLIENT = (WSCloseCode.BAD_GATEWAY, WSCloseCode.GOING_AWAY)


async def _pass_on(source: Side, target: Side, source_lost_code: int, target_lost_code: int) -> Ending:
    while True:
        message = await source.receive()
        try:
            match message.type:
                case WSMsgType.TEXT:
                    await target.send_str(message.data)
                case WSMsgType.BINARY:
                    await target.send_bytes(message.data)
                case WSMsgType.PING:
                    await target.ping(message.data)
                case WSMsgType.PONG:
                    await target.pong(message.data)
                case WSMsgType.CLOSE:
                    # 0 stands for a close without a code, which cannot be sent as a number (RFC 6455 7.4.1).
                    return Ending(message.data or WSCloseCode.OK, (message.extra or "").encode())
                case WSMsgType.ERROR if isinstance(message.data, aiohttp.WebSocketError):
                    return Ending(message.data.code)
                case _:
                    return Ending(source_lost_code, is_lost=True)
        except ConnectionError:
            return Ending(target_lost_code, is_lost=True)
