"""From a node's settings to the TLS of its connections."""

from pathlib import Path

from noctule.adapters.tls import Tls, TlsFiles
from noctule.node.config import NodeConfig


def load_tls(config: NodeConfig) -> Tls | None:
    """TLS with the files that the settings name, read now; None when they name none. Raises `ConfigError`."""
    if config.tls_ca == Path():
        return None
    return Tls(TlsFiles(config.tls_ca, config.tls_cert, config.tls_key), config.cluster.name)
