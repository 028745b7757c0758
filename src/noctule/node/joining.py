"""How a node comes by its id: by its settings, by what its data folder says, or by joining a cluster.

A node that joins draws a nonce, makes it durable, and asks a member to let it in; asking again with the same nonce is
answered with the same id. So it may be killed at any moment and started again with the same command.
"""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import msgspec

from noctule.adapters.control import JoinAnswer, JoinRequest, MemberFacts
from noctule.adapters.files import FileSystem, load_json, write_json_atomically
from noctule.base.errors import ConfigError, OutcomeUnknownError, StorageError, UnavailableError
from noctule.node.address_book import AddressBook, save_address_book
from noctule.node.config import ClusterConfig, NodeConfig
from noctule.node.data_folder import OWNER_FILE, Owner

log = logging.getLogger("noctule.node")

NONCE_FILE = "joining.json"


Ask = Callable[[str, JoinRequest], Awaitable[JoinAnswer]]
"""Asks the node whose control address it is; raises `NoctuleError`."""

JOIN_S_MAX = 60.0
"""How long a node that is to join asks again while nobody can say yes or no."""
AGAIN_S = 0.5


def with_stored_identity(config: NodeConfig, files: FileSystem | None = None) -> NodeConfig:
    """The settings with the id and cluster of a data folder that has joined; any other settings as they are.

    A folder that cannot be read, or is none of ours, changes nothing: whoever claims it says what is wrong.
    """
    try:
        owner = msgspec.convert(load_json(config.data_dir / OWNER_FILE, files), Owner)
    except (StorageError, msgspec.ValidationError):
        return config
    if owner.voters:
        return config
    cluster = ClusterConfig.joined(owner.cluster, owner.agreed)
    return replace(config, node_id=owner.node_id, cluster=cluster)


async def join_cluster(config: NodeConfig, facts: MemberFacts, ask: Ask, files: FileSystem | None = None) -> NodeConfig:
    """The settings of a node that is let in now, or was before; without `config.join` as `with_stored_identity`.

    Raises `ConfigError` when the cluster refuses, `UnavailableError` when nobody answers; starting again with the same
    settings goes on where this ended.
    """
    known = with_stored_identity(config, files)
    if not config.join or known is not config:
        return known
    if load_json(config.data_dir / OWNER_FILE, files) is not None:
        raise ConfigError(
            f"the data folder {config.data_dir} belongs to a node that did not join: start it without --join, or "
            "choose another --data-dir"
        )
    nonce = _nonce(config.data_dir, files or FileSystem())
    answer = await _answer_of(ask, config.join, JoinRequest(config.token, nonce, facts, _named_cluster(config)))
    if answer.refusal:
        raise ConfigError(f"the cluster at {config.join} does not let this node in: {answer.refusal}")
    cluster = ClusterConfig.joined(answer.cluster, answer.settings)
    save_address_book(config.data_dir, AddressBook.of(answer.cluster_id, answer.members), files)
    log.info("cluster_joined", extra={"fields": {"id": answer.node_id, "cluster": answer.cluster}})
    return replace(config, node_id=answer.node_id, cluster=cluster)


def _named_cluster(config: NodeConfig) -> str:
    """The cluster that the settings ask for by its name; empty where they leave it to the token."""
    return "" if config.cluster.name == ClusterConfig().name else config.cluster.name


async def _answer_of(ask: Ask, address: str, request: JoinRequest) -> JoinAnswer:
    """The answer, asked for until there is one: the same nonce is never let in twice."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + JOIN_S_MAX
    while True:
        try:
            return await ask(address, request)
        except (UnavailableError, OutcomeUnknownError) as error:
            if loop.time() > deadline:
                raise UnavailableError(f"no node at {address} could let this one in: {error}") from error
            log.warning("join_waits", extra={"fields": {"address": address, "reason": str(error)}})
            await asyncio.sleep(AGAIN_S)


def _nonce(data_dir: Path, files: FileSystem) -> str:
    path = data_dir / NONCE_FILE
    files.make_directory(data_dir)
    stored = load_json(path, files)
    if isinstance(stored, str):
        return stored
    nonce = secrets.token_hex(16)
    write_json_atomically(path, nonce, files)
    return nonce
