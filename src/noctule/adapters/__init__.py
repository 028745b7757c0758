"""Floor 2: the only floor that touches disk, sockets and the clocks of the system; may import core and base."""

import os

# gRPC's library reads these when it is loaded, and only modules of this package load it.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # Its lines would stand among our JSON; what matters we log ourselves.
# It cannot be told a lowest version of TLS. Left with a suite that needs a shared secret, which nobody has, it can
# agree on none of TLS 1.2, while those of TLS 1.3 are not chosen by this.
os.environ["GRPC_SSL_CIPHER_SUITES"] = "ECDHE-PSK-AES128-CBC-SHA"
