"""Which data folder each peer came with, so that one that has lost it does not pass for the node it was.

An emptied folder looks like a first start to the node itself; only those who have met the node before can tell.
"""

from pathlib import Path

import msgspec

from noctule.adapters.files import FileSystem, load_json, write_json_atomically
from noctule.base.errors import StorageError
from noctule.core.wire.messages import Hello
from noctule.node.data_folder import PEERS_FILE


def load_peer_folders(data_dir: Path, files: FileSystem | None = None) -> dict[int, int]:
    """What a node remembers: peer to the id of its folder. Raises `StorageError` when the file cannot be read."""
    path = data_dir / PEERS_FILE
    stored = load_json(path, files)
    try:
        return msgspec.convert({} if stored is None else stored, dict[int, int], strict=False)
    except msgspec.ValidationError as error:
        raise StorageError(f"{path} cannot be used ({error}); restore it from a copy, or remove it") from error


class PeerFolders:
    """One node's memory of its peers' folders, in ``peers.json``; what it says is durable before anyone acts on it."""

    def __init__(self, data_dir: Path, files: FileSystem | None = None) -> None:
        """Load it. Raises `StorageError`."""
        self._path = data_dir / PEERS_FILE
        self._files = files
        self._folders = load_peer_folders(data_dir, files)

    def admit(self, hello: Hello) -> str:
        """Why this peer must be kept out, in words for an operator; empty when it may come in.

        Its folder is remembered: at the first meeting, and when the peer says that it has lost the one before, by a
        directory of its own. Then the group does not count what it says until it has taken the node back.
        """
        node, folder = hello.node_id, hello.folder
        known = self._folders.get(node)
        if folder in (0, known):
            return ""
        if known is not None and not hello.directory:
            return (
                f"node {node} came with another data folder than before: start it with that one; "
                "if it is lost, empty the new one and start the node with --rejoin"
            )
        try:
            write_json_atomically(self._path, self._folders | {node: folder}, self._files)
        except StorageError as error:
            return f"the data folder of node {node} cannot be remembered: {error}"
        self._folders[node] = folder
        return ""
