"""Where Noctule is not Redis 7.0: what it answers differently, and what it will never have, each with the reason.

The reference page is rendered from these tables, and the comparison with a real redis-server is run by them: a
difference that does not stand here fails it, and so does one that stands here and cannot be seen (`example`).
"""

from dataclasses import dataclass

from noctule.base.bounds import KEY_BYTES_MAX, VALUE_BYTES_MAX


@dataclass(frozen=True, slots=True)
class Deviation:
    """Something that Noctule does differently on purpose."""

    commands: str
    """Upper-case names with spaces between; for all commands of keys and values: the word *all*."""
    difference: str
    """What Noctule does instead; a whole sentence."""
    reason: str
    """Why; a whole sentence."""
    example: tuple[str, ...] = ()
    """Inline commands, the last of which both answer, differently; empty where one connection sees no difference."""
    argument: str = ""
    """A regular expression: only commands with such an argument may be answered differently; empty: none may."""


DEVIATIONS: tuple[Deviation, ...] = (
    Deviation(
        "all",
        f"A key has at most {KEY_BYTES_MAX:,} bytes, an argument or string at most {VALUE_BYTES_MAX:,}.",
        "Each must fit one log entry and one frame to a peer; Redis' bound is 512 MB.",
        (f"SETRANGE k {VALUE_BYTES_MAX} x",),
    ),
    Deviation(
        "INCRBYFLOAT HINCRBYFLOAT",
        "Hexadecimal numbers, and those that no double holds, are no floats.",
        "Replicas must compute the same on every processor, and Redis' `long double` is not the same on all.",
        ("INCRBYFLOAT k 0x10",),
        r"(?i)\s*[+-]?0x.*|[+-]?[\d.]{300,}|.*e[+-]?\d{3,}",
    ),
    Deviation(
        "SORT SORT_RO",
        "BY takes a constant and GET takes #; patterns, which name other keys, are refused with Redis Cluster's words.",
        "Those keys are in other partitions, and no lock is over two.",
        ("RPUSH l 1", "SORT l BY weight_*"),
        r".*\*.*|(?i:get)",
    ),
    Deviation(
        "KEYS SCAN HSCAN SSCAN ZSCAN",
        "A pattern has at most 1,024 bytes.",
        "What it costs to prepare one is not spread over turns of the loop.",
        (f"KEYS {'a' * 1_025}",),
    ),
    Deviation(
        "SCAN HSCAN SSCAN ZSCAN",
        "Cursors are other numbers, and COUNT is the number of names that are looked at, at most 10,000.",
        "A cursor is a place in an order that all replicas share, so a walk goes on at another leader.",
        ("HSET h a 1 b 2 c 3", "HSCAN h 0 COUNT 2"),
        r"[1-9]\d?",
    ),
    Deviation(
        "KEYS HGETALL HKEYS HVALS SMEMBERS SUNION SINTER SDIFF",
        "Names come sorted.",
        "Replicas with the same data answer the same; Redis promises no order.",
        ("HSET h b 1 a 2", "HKEYS h"),
    ),
    Deviation(
        "DEL UNLINK EXISTS TOUCH MGET MSET",
        "With keys in several partitions, each part is atomic and the whole is not.",
        "Each partition has its own log; give keys one hash tag where all must happen at once.",
    ),
    Deviation(
        "MSETNX RENAME RENAMENX COPY",
        "Keys in different slots are refused with CROSSSLOT.",
        "They must change at once, and a log entry belongs to one partition; Redis Cluster says the same.",
    ),
    Deviation(
        "KEYS SCAN DBSIZE FLUSHALL FLUSHDB",
        "They visit one partition after another, and are not of one moment.",
        "A lock over all partitions would stop the cluster.",
    ),
    Deviation(
        "FLUSHALL FLUSHDB",
        "ASYNC and SYNC are the same, and both empty the database.",
        "Memory is given back piece by piece anyway.",
    ),
    Deviation(
        "WAIT",
        "It answers at once how many other nodes surely have every acknowledged write.",
        "A write is acknowledged once a quorum has synced it, so there is nothing to wait for.",
    ),
    Deviation(
        "READONLY READWRITE",
        "They are for every connection: READONLY lets its reads be answered by this node's own replicas, eventually.",
        "Redis knows them in a cluster only, and every node here may be asked for everything.",
        ("READONLY",),
    ),
    Deviation(
        "MOVE SWAPDB",
        "They are refused.",
        "Databases live in different partitions, and no log entry changes two.",
        ("MOVE k 1",),
    ),
    Deviation(
        "TIME",
        "Microseconds are whole milliseconds.",
        "The clock of a node is read to the millisecond.",
    ),
    Deviation(
        "HELLO INFO CONFIG CLIENT COMMAND",
        "The server is called noctule, and tells what there is to tell about it: other fields, settings and tips.",
        "It is another server; what libraries look for is there.",
        ("HELLO",),
    ),
    Deviation(
        "CONFIG",
        "CONFIG GET with a pattern finds the settings that libraries ask for, and no others.",
        "The others of Redis set what is not here.",
        ("CONFIG GET *",),
        r"\*",
    ),
    Deviation(
        "WATCH",
        "What was changed and changed back counts as unchanged when another node leads the partition by then.",
        "Only the leader knows who watches what; without it the value decides, and no nil is answered in vain.",
    ),
    Deviation(
        "CLIENT",
        "KILL, PAUSE, REPLY, CACHING, TRACKING ON and their like are refused.",
        "A client is served by one node, and what it may do to others ends there.",
        ("CLIENT UNPAUSE",),
    ),
    Deviation(
        "CLIENT INFO",
        "In RESP3 their texts are bulk strings, not verbatim ones.",
        "What a verbatim string says beside, that it is text, changes nothing for a client.",
        ("HELLO 3", "CLIENT LIST ID 1000000"),
    ),
    Deviation(
        "POST HOST:",
        "They are answered with a sentence before the connection is closed.",
        "Who sends HTTP to this port is told so.",
        ("POST /",),
    ),
)

NEVER: dict[str, str] = {
    "ACL": "There is one user; who may connect is the network's to say.",
    "BGREWRITEAOF BGSAVE LASTSAVE SAVE": "Every acknowledged write is on the disks of a quorum already.",
    "DEBUG PFDEBUG PFSELFTEST": "They look into Redis' own insides.",
    "DUMP RESTORE RESTORE-ASKING MIGRATE": "They carry Redis' own file format between Redis servers.",
    "FAILOVER REPLICAOF SLAVEOF PSYNC REPLCONF SYNC": "Replication is Raft's, and leaders are elected by it.",
    "FCALL FCALL_RO FUNCTION": "Scripts do the same, and their cache survives a failover here.",
    "GEOADD GEODIST GEOHASH GEOPOS GEORADIUS GEORADIUSBYMEMBER GEORADIUSBYMEMBER_RO GEORADIUS_RO GEOSEARCH "
    "GEOSEARCHSTORE": "Places are for a database with a spatial index; no library that was looked at keeps them here.",
    "LOLWUT": "The version is in INFO.",
    "MODULE": "Nothing is loaded into a node.",
    "MONITOR": "It shows everyone's data to whoever asks, and doubles the work of a node.",
    "SHUTDOWN": "A node is stopped by its own machine, or taken out by the operator's commands.",
}
"""Commands of Redis 7.0, upper case with spaces between, that there are not and will not be; to the reason."""

NOT_YET: tuple[str, ...] = ("LCS PFADD PFCOUNT PFMERGE",)
"""Commands of Redis 7.0 that may come; those that have come are skipped, wherever this is read."""
