"""``host:port`` as text, and its parts: an IPv6 host has brackets in the text, and none by itself (RFC 3986 3.2.2)."""


def split_address(address: str) -> tuple[str, int]:
    """Host and port of ``host:port``; `ValueError` when there is no port."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def join_address(host: str, port: int) -> str:
    """``host:port`` of a host that has no brackets of its own."""
    return f"{bracketed(host)}:{port}"


def bracketed(host: str) -> str:
    """The host as it stands before a port, also when it has brackets already."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host
