"""How often everything is kept, and how far each copy is: the client's calls under a replication manager's names."""

from collections.abc import Mapping

from msgspec import Struct

from noctule.client.admin import AdminClient
from noctule.core.meta.views import PartitionView


class ReplicationStatus(Struct, frozen=True):
    """All partitions beside what is wanted of them."""

    replication_factor: int
    partitions: list[PartitionView]
    """With the lag of each replica in log entries, as the leaders last told."""

    @property
    def under_replicated(self) -> list[int]:
        """The partitions of which fewer copies vote than are wanted, or of which no leader has told."""
        return [each.id for each in self.partitions if self._votes(each) < self.replication_factor]

    @staticmethod
    def _votes(partition: PartitionView) -> int:
        return sum(replica.role in ("leader", "voter") for replica in partition.replicas)


class ReplicationManager:
    """Over the client of a running cluster, which the caller opens and closes; errors are the client's."""

    def __init__(self, client: AdminClient) -> None:
        self._client = client

    async def replicate_message(self, key: str | bytes, value: bytes) -> None:
        """Write a key; returns once a quorum has it on disk."""
        await self._client.kv_set(key, value)

    async def replicate_batch(self, messages: Mapping[str, bytes]) -> None:
        """Write several keys one after the other, each acknowledged by a quorum; when one fails, those before stay."""
        for key, value in messages.items():
            await self._client.kv_set(key, value)

    async def set_replication_factor(self, replicas: int) -> None:
        """Have every partition kept on so many nodes; replicas are added and dropped one by one from now on."""
        await self._client.change_settings({"replication_factor": replicas})

    async def get_replication_status(self) -> ReplicationStatus:
        """Every partition with its replicas and their lag."""
        settings = await self._client.settings()
        return ReplicationStatus(settings.replication_factor, await self._client.partitions())
