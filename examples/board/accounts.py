"""Accounts: one hash in the store, where a larger app has a table."""

from dataclasses import dataclass
from typing import Any, cast

import msgspec
from redis.asyncio import Redis

from examples.board.guestbook import put_once
from noctule.kits.store import retrying_idempotent

KEY = "board:accounts"


class Account(msgspec.Struct, frozen=True):
    """A name that only who has the password can use."""

    name: str
    """As it was typed."""
    password_hash: str


def subject_of_name(name: str) -> str:
    """What an account is called in sessions and tokens. No account is ever given to another person."""
    return name.casefold()


@dataclass(frozen=True, slots=True)
class Accounts:
    """All accounts; every method raises `NoctuleError` when the store does not serve."""

    store: Redis

    async def register(self, name: str, password_hash: str) -> bool:
        """Make an account; False when the name is taken. Of two who ask at once, one gets it."""
        account = msgspec.json.encode(Account(name, password_hash))
        return await put_once(self.store, KEY, subject_of_name(name), account)

    async def find(self, name: str) -> Account | None:
        """The account of that name."""
        raw = await retrying_idempotent(lambda: cast("Any", self.store.hget(KEY, subject_of_name(name))), writes=False)
        return msgspec.json.decode(raw, type=Account) if raw else None

    async def find_hash(self, name: str) -> tuple[str, str] | None:
        """The subject and the hash of the password, for `Login`."""
        account = await self.find(name)
        return (subject_of_name(account.name), account.password_hash) if account else None

    async def keep_hash(self, subject: str, password_hash: str) -> None:
        """Another hash of the same password, for `Login`."""
        account = await self.find(subject)
        if account is not None:
            encoded = msgspec.json.encode(msgspec.structs.replace(account, password_hash=password_hash))
            await retrying_idempotent(lambda: cast("Any", self.store.hset(KEY, subject, encoded)), writes=True)
