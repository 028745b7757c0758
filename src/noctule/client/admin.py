"""The typed client of what the HTTP API has for whoever looks after a cluster.

What comes back are the values of `core.meta.views` and their neighbours, which the nodes send. No change is sent a
second time after its answer was lost: `OutcomeUnknownError` then says to look before it is asked for again.
"""

from collections.abc import Mapping
from typing import TypeVar
from urllib.parse import urlencode

import msgspec

from noctule.client.api import NodeClient, checked, decode
from noctule.client.pictures import NewToken, OperationList, PartitionPage, RebalanceBegun, Token
from noctule.core.meta.settings import ClusterSettings, SettingValue
from noctule.core.meta.views import ComparedView, MemberView, OperationView, PartitionView, Reach
from noctule.core.placement.picture import Plan
from noctule.core.placement.risk import Risk

T = TypeVar("T")

PAGE = 1_000
"""Partitions that are asked for at a time."""
JSON_HEADERS = {"Content-Type": "application/json"}


class _Members(msgspec.Struct, frozen=True):
    nodes: list[MemberView]


class _Reach(msgspec.Struct, frozen=True):
    node: int
    others: list[Reach]


class _Tokens(msgspec.Struct, frozen=True):
    tokens: list[Token]


class AdminClient(NodeClient):
    """A `NodeClient` that can change the cluster too; errors as there."""

    # Nodes -----------------------------------------------------------------------------------------------------------

    async def members(self) -> list[MemberView]:
        """Every node that was ever let in, by id."""
        return decode(await self._ask("GET", "/api/nodes"), _Members).nodes

    async def reach(self) -> tuple[int, list[Reach]]:
        """The asked node, and how it reaches every other one, by id."""
        found = decode(await self._ask("GET", "/api/reach"), _Reach)
        return found.node, found.others

    async def member(self, node: int) -> MemberView:
        """One of them. `RequestError` when there is none of that id; so with all that follow."""
        return decode(await self._ask("GET", f"/api/nodes/{node}"), MemberView)

    async def risk(self, node: int) -> Risk:
        """What removing it as it is would mean."""
        return decode(await self._ask("GET", f"/api/nodes/{node}/risk"), Risk)

    async def drain(self, node: int) -> MemberView:
        """Begin to move everything away from it."""
        return await self._change("POST", f"/api/nodes/{node}/drain", MemberView)

    async def activate(self, node: int) -> MemberView:
        """Take a draining one back into service."""
        return await self._change("POST", f"/api/nodes/{node}/activate", MemberView)

    async def leave(self, node: int) -> MemberView:
        """Have a drained one leave for good; refused while it holds anything."""
        return await self._change("POST", f"/api/nodes/{node}/leave", MemberView)

    async def remove(self, node: int, *, force: bool = False) -> MemberView:
        """Take it out as it is; refused when data may be lost by that, unless `force` is given."""
        return await self._change("POST", f"/api/nodes/{node}/remove{'?force=true' if force else ''}", MemberView)

    async def change_member(
        self, node: int, *, weight: float | None = None, labels: Mapping[str, str] | None = None
    ) -> MemberView:
        """Change its weight, or all of its labels."""
        return await self._change("PATCH", f"/api/nodes/{node}", MemberView, {"weight": weight, "labels": labels})

    # Tokens and settings ---------------------------------------------------------------------------------------------

    async def create_token(self, *, reusable: bool = False, ttl_s: float = 86_400.0, note: str = "") -> NewToken:
        """A token by which a node may join, void after `ttl_s` seconds (0: never). Its text cannot be had again."""
        wish = {"reusable": reusable, "ttl_s": ttl_s, "note": note}
        return await self._change("POST", "/api/tokens", NewToken, wish)

    async def tokens(self) -> list[Token]:
        """Those that are valid, by hash."""
        return decode(await self._ask("GET", "/api/tokens"), _Tokens).tokens

    async def revoke_token(self, token_hash: str) -> None:
        """Let nobody in by it any more."""
        checked(await self._send("DELETE", f"/api/tokens/{token_hash}", repeatable=False))

    async def settings(self) -> ClusterSettings:
        """Those of the whole cluster."""
        return decode(await self._ask("GET", "/api/settings"), ClusterSettings)

    async def change_settings(self, values: Mapping[str, SettingValue]) -> ClusterSettings:
        """Change some, all or none of them."""
        return await self._change("PATCH", "/api/settings", ClusterSettings, values)

    # Partitions ------------------------------------------------------------------------------------------------------

    async def partitions(self) -> list[PartitionView]:
        """All, in the order of their slots. Over 1,000 come in several pages, and the map may change in between."""
        found: list[PartitionView] = []
        while True:
            query = urlencode({"after": len(found), "limit": PAGE})
            page = decode(await self._ask("GET", f"/api/partitions?{query}"), PartitionPage)
            found += page.partitions
            if not page.partitions or len(found) >= page.total:
                return found

    async def partition(self, partition: int) -> PartitionView:
        """One of them."""
        return decode(await self._ask("GET", f"/api/partitions/{partition}"), PartitionView)

    async def split(self, partition: int, at_slot: int | None = None) -> OperationView:
        """Begin to divide it; where its keys halve, or its slots, when `at_slot` is not given."""
        body = {"at_slot": at_slot}
        return await self._change("POST", f"/api/partitions/{partition}/split", OperationView, body)

    async def merge(self, partition: int) -> OperationView:
        """Begin to merge it with its right neighbour."""
        return await self._change("POST", f"/api/partitions/{partition}/merge", OperationView)

    async def prefer_leader(self, partition: int, node: int) -> PartitionView:
        """Have that replica lead it; the leadership follows within moments."""
        return await self._change("POST", f"/api/partitions/{partition}/leader", PartitionView, {"node": node})

    async def compare(self, partition: int) -> ComparedView:
        """Have its replicas compared now; takes a second or more, and up to 30 s where one is down or busy."""
        return await self._change("POST", f"/api/partitions/{partition}/digest", ComparedView)

    async def migrate(self, partition: int, source: int, target: int, reason: str = "") -> OperationView:
        """Begin to move a replica; without a source (0) one is added, without a target one is dropped."""
        body: dict[str, object] = {"source": source, "target": target}
        body |= {"reason": reason} if reason else {}
        return await self._change("POST", f"/api/partitions/{partition}/migrate", OperationView, body)

    # Migrations and balance ------------------------------------------------------------------------------------------

    async def operations(self, *, running: bool = False) -> list[OperationView]:
        """Migrations, splits and merges, the newest last; with `running` only those on their way."""
        query = "?running=true" if running else ""
        return decode(await self._ask("GET", f"/api/migrations{query}"), OperationList).migrations

    async def migration(self, migration: int) -> OperationView:
        """One migration."""
        return decode(await self._ask("GET", f"/api/migrations/{migration}"), OperationView)

    async def cancel_migration(self, migration: int) -> OperationView:
        """Have it go back; refused once the target votes."""
        return await self._change("POST", f"/api/migrations/{migration}/cancel", OperationView)

    async def plan(self) -> Plan:
        """What would be moved, and why; nothing of it is done."""
        return decode(await self._ask("GET", "/api/rebalance"), Plan)

    async def rebalance(self) -> RebalanceBegun:
        """Begin what comes first in the plan, also while rebalancing is paused."""
        return await self._change("POST", "/api/rebalance", RebalanceBegun)

    async def _change(self, method: str, path: str, kind: type[T], body: object = None) -> T:
        data = b"" if body is None else msgspec.json.encode(body)
        answer = await self._send(method, path, repeatable=False, body=data, headers=JSON_HEADERS)
        return decode(checked(answer), kind)
