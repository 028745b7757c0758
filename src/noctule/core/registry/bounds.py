"""Every bound of the registry in one place, and the refusals that name them.

What Consul bounds is bounded as there (pairs of meta, the size of a value); it has no bound on how much there is, which
here every node holds in memory, and a snapshot of *meta* carries.
"""

from collections.abc import Mapping, Sequence

from noctule.base.errors import RequestError, TooLargeError
from noctule.core.registry.objects import Check, RegistryNode, ServiceInstance, Session

NODES_MAX = 10_000
INSTANCES_MAX = 50_000
CHECKS_MAX = 100_000
SESSIONS_MAX = 10_000
KEYS_MAX = 100_000

KEY_BYTES_MAX = 4 * 1024
VALUE_BYTES_MAX = 512 * 1024
KV_BYTES_MAX = 64 * 1024 * 1024
"""All keys with their values."""

CHANGES_MAX = 1_000
"""In one list."""
TRANSACTION_OPERATIONS_MAX = 64
"""In one transaction of a client; the servers see to it, for what they ask themselves may be longer."""
LIST_BYTES_MAX = 1024 * 1024
"""Of one list as it travels; who asks sees to it, for a list that is in the log is there already."""

NAME_CHARS_MAX = 255
"""Of a node, a service, an instance, a check, a session, an address or a tag."""
TAGS_MAX = 64
"""And names of services that one depends on."""
META_PAIRS_MAX = 64
META_KEY_CHARS_MAX = 128
META_VALUE_CHARS_MAX = 512
ADDRESSES_MAX = 64
OUTPUT_BYTES_MAX = 4 * 1024
"""What a check says beyond is cut off. The same for its notes, which are refused instead."""

TTL_MS_MAX = 86_400_000
REMOVAL_MS_MAX = 30 * 86_400_000
"""How long an instance may be critical before it is removed."""
LOCK_DELAY_MS_MAX = 60_000
SESSION_CHECKS_MAX = 64

FLAGS_MAX = (1 << 64) - 1
WEIGHT_MAX = 65_535
PORT_MAX = 65_535

TOPICS_MAX = 65_536
"""Topics of which it is known when they last changed."""
TOMBSTONES_MAX = 16_384
"""Deleted keys of which it is known when."""


def require(condition: object, sentence: str) -> None:
    """Refuse the change with this sentence unless the condition holds."""
    if not condition:
        raise RequestError(sentence)


def require_fits(size: int, bound: int, what: str) -> None:
    """Refuse what is over a bound, which is named."""
    if size > bound:
        raise TooLargeError(f"{what}: {size:,}, and {bound:,} are the most")


def require_name(name: str, what: str) -> None:
    """Refuse an empty name, one that is too long, and one with control characters."""
    require(name, f"{what} is empty")
    require_text(name, what)


def require_text(text: str, what: str) -> None:
    """The same, but it may be empty."""
    require_fits(len(text), NAME_CHARS_MAX, f"characters of {what}")
    require(text.isprintable(), f"{what} has characters that cannot be printed")


def require_key(key: str) -> None:
    """Refuse what is no key."""
    require(key, "a key is empty")
    require_fits(len(key.encode()), KEY_BYTES_MAX, "bytes of a key")


def require_value(value: bytes, flags: int) -> None:
    """Refuse what no key may hold."""
    require_fits(len(value), VALUE_BYTES_MAX, "bytes of a value")
    require(0 <= flags <= FLAGS_MAX, "flags are 64 bits without a sign")


def require_node(node: RegistryNode) -> None:
    """Refuse a node that is not made right."""
    require_name(node.name, "the name of a node")
    for text, what in ((node.address, "address"), (node.id, "id"), (node.datacenter, "datacenter")):
        require_text(text, f"the {what} of node {node.name!r}")
    _require_pairs(node.meta, f"node {node.name!r}")
    require_fits(len(node.tagged_addresses), ADDRESSES_MAX, f"tagged addresses of node {node.name!r}")
    for tag, address in node.tagged_addresses.items():
        require_name(tag, f"the tag of an address of node {node.name!r}")
        require_text(address, f"an address of node {node.name!r}")


def require_instance(instance: ServiceInstance) -> None:
    """Refuse an instance that is not made right."""
    require_name(instance.id, "the id of an instance")
    who = f"instance {instance.id!r}"
    require_name(instance.name, f"the service's name of {who}")
    require_text(instance.address, f"the address of {who}")
    require(0 <= instance.port <= PORT_MAX, f"a port is 0 to {PORT_MAX}: {who} has {instance.port}")
    _require_names(instance.tags, f"a tag of {who}", TAGS_MAX)
    _require_names(instance.depends_on, f"a service that {who} depends on", TAGS_MAX)
    _require_pairs(instance.meta, who)
    weights = instance.weights
    # Consul's rule: at least 1 while passing, for who gets nothing is taken out instead.
    require(1 <= weights.passing <= WEIGHT_MAX, f"a weight of {who} while passing is 1 to {WEIGHT_MAX}")
    require(0 <= weights.warning <= WEIGHT_MAX, f"a weight of {who} while warning is 0 to {WEIGHT_MAX}")
    require_fits(len(instance.tagged_addresses), ADDRESSES_MAX, f"tagged addresses of {who}")
    for tag, (address, port) in instance.tagged_addresses.items():
        require_name(tag, f"the tag of an address of {who}")
        require_text(address, f"an address of {who}")
        require(0 <= port <= PORT_MAX, f"a port is 0 to {PORT_MAX}: {who} has {port}")


def require_check(check: Check) -> None:
    """Refuse a check that is not made right."""
    require_name(check.id, "the id of a check")
    who = f"check {check.id!r}"
    require_text(check.name, f"the name of {who}")
    require_text(check.type, f"the type of {who}")
    require_text(check.service_id, f"the instance of {who}")
    require_fits(len(check.notes.encode()), OUTPUT_BYTES_MAX, f"bytes of notes of {who}")
    require(0 <= check.ttl_ms <= TTL_MS_MAX, f"the TTL of {who} is 0 to {TTL_MS_MAX:,} ms")
    removal = f"the time until deregistration of {who} is 0 to {REMOVAL_MS_MAX:,} ms"
    require(0 <= check.deregister_after_ms <= REMOVAL_MS_MAX, removal)


def require_session(session: Session) -> None:
    """Refuse a session that is not made right."""
    require_name(session.id, "the id of a session")
    require_text(session.name, "the name of a session")
    require(0 <= session.ttl_ms <= TTL_MS_MAX, f"the TTL of a session is 0 to {TTL_MS_MAX:,} ms")
    require(0 <= session.lock_delay_ms <= LOCK_DELAY_MS_MAX, f"a lock-delay is 0 to {LOCK_DELAY_MS_MAX:,} ms")
    checks = (*session.node_checks, *session.service_checks)
    _require_names(checks, "a check of a session", SESSION_CHECKS_MAX)


def cut_output(output: str) -> str:
    """The beginning of what a check said, as much as is kept."""
    # No character takes more than four bytes.
    if len(output) * 4 <= OUTPUT_BYTES_MAX:
        return output
    return output.encode()[:OUTPUT_BYTES_MAX].decode(errors="ignore")


def _require_names(names: Sequence[str], what: str, bound: int) -> None:
    require_fits(len(names), bound, f"number of {what}")
    for name in names:
        require_text(name, what)


def _require_pairs(pairs: Mapping[str, str], who: str) -> None:
    require_fits(len(pairs), META_PAIRS_MAX, f"pairs of meta of {who}")
    for key, value in pairs.items():
        require(key, f"a key of the meta of {who} is empty")
        require_fits(len(key), META_KEY_CHARS_MAX, f"characters of a key of the meta of {who}")
        require_fits(len(value), META_VALUE_CHARS_MAX, f"characters of a value of the meta of {who}")
