"""What a release can do beyond the first one, by names that members tell of themselves.

A cluster does what all its members can: a feature is opened, for good, once every present member has it, so that an
upgrade node by node needs no other care. What needs one is refused until then.
"""

MIGRATE = "migrate"
"""Replicas move from node to node."""
SPLIT = "split"
MERGE = "merge"
PUBLISH = "publish"
"""Nodes tell each other what is published. It waits for nobody: each peer is told once it says that it has this."""
DATA_MODEL_2 = "data-model-2"
"""Lists, sets, sorted sets, streams, bits, transactions, scripts, databases: all commands that came with them."""
REGISTRY = "registry"
"""Services, their health, sessions and Consul's keys, in *meta*."""
SHARED_READS = "shared-reads"
"""Linearizable reads are asked of a node and confirmed by nodes, for all groups at once."""

FEATURES = (MIGRATE, SPLIT, MERGE, PUBLISH, DATA_MODEL_2, REGISTRY, SHARED_READS)
"""Of this release."""
