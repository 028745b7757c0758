"""The snapshot files that a node is reading for others, and those that it is being sent, chunk by chunk.

Everything here happens in the snapshot thread, and each call returns the event that tells its outcome. The real node
and the simulator use it alike.
"""

from noctule.adapters.snapshots import SnapshotFiles, SnapshotReader, SnapshotWriter
from noctule.base.ids import GroupId
from noctule.core.raft import events as raft


class SnapshotShelf:
    """One node's. Holds a descriptor for each snapshot that is being sent, and for each that is being received."""

    def __init__(self, files: SnapshotFiles) -> None:
        self._files = files
        self._readers: dict[tuple[GroupId, int], SnapshotReader] = {}
        """By group and index."""
        self._writers: dict[GroupId, SnapshotWriter] = {}

    def save_chunk(self, group: GroupId, chunk: raft.SaveChunk) -> raft.ChunkSaved | raft.SnapshotSaved:
        """Add a chunk to the file that is being received. Raises `StorageError`."""
        if chunk.number == 0:
            self.drop_chunks(group)
            self._writers[group] = self._files.begin(group, chunk.index, chunk.term)
        self._writers[group].append(chunk.data)
        if chunk.number + 1 < chunk.count:
            return raft.ChunkSaved(chunk.index, chunk.term, chunk.number)
        self._writers.pop(group).finish()
        return raft.SnapshotSaved(chunk.index, chunk.term)

    def drop_chunks(self, group: GroupId) -> None:
        """Remove what has come of a file that nobody will finish. Raises `StorageError`."""
        writer = self._writers.pop(group, None)
        if writer is not None:
            writer.abandon()

    def open(self, group: GroupId) -> raft.SnapshotOpened:
        """Hold the newest snapshot. Raises `StorageError`, `DamagedLogError` when it is not as it was written."""
        reader = self._files.open(group)
        if reader is None:
            return raft.SnapshotOpened(0, 0, 0, 0)
        before = self._readers.pop((group, reader.index), None)
        if before is not None:
            before.close()
        self._readers[group, reader.index] = reader
        return raft.SnapshotOpened(reader.index, reader.term, reader.count, reader.bytes_total)

    def load_chunk(self, group: GroupId, wanted: raft.LoadChunk) -> raft.ChunkLoaded:
        """A chunk of a snapshot that is held. Raises as `open`."""
        reader = self._readers.get((group, wanted.index))
        data = None if reader is None else reader.read(wanted.number)
        return raft.ChunkLoaded(wanted.index, wanted.number, data)

    def keep(self, group: GroupId, indexes: tuple[int, ...]) -> None:
        """Let go all that the group has open but these."""
        for name in [name for name in self._readers if name[0] == group and name[1] not in indexes]:
            self._readers.pop(name).close()

    def forget(self, group: GroupId) -> None:
        """The group is no longer here: let go, and drop, all of it."""
        self.keep(group, ())
        self.drop_chunks(group)

    def close(self) -> None:
        """Let go everything; what was not finished is removed at the next start."""
        for reader in self._readers.values():
            reader.close()
        for writer in self._writers.values():
            writer.close()
        self._readers, self._writers = {}, {}
