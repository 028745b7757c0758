"""What one verification is asked to do."""

from dataclasses import dataclass

from noctule.base.errors import ConfigError
from noctule.client.exchange import base_url

REQUESTS_MAX = 100_000

NODE_URL_DEFAULT = "http://127.0.0.1:7501"
"""The first node of `noctule up`."""


@dataclass(frozen=True, slots=True)
class Options:
    """The settings of one run; `validate` tells what is wrong with them."""

    node: str = NODE_URL_DEFAULT
    """The HTTP URL of any node: it knows the instances, their processes and the store."""
    instances: tuple[str, ...] = ()
    """The URLs of the app instances; empty: the node is asked for them."""
    store: str = ""
    """The store's URL, as in ``redis://127.0.0.1:7401``; empty: the node is asked for it."""
    requests: int = 30
    """Sent one after another to see how they spread; also the most that are sent with the session's cookie."""
    timeout_s: float = 5.0
    """The longest wait for one answer."""
    sign_in_path: str = "/sign-in"
    """Takes a form with the field ``name``."""
    session_path: str = "/api/whoami"
    """Gives JSON with ``name``, ``visits`` and ``session``."""
    destructive: bool = False
    """Kill one instance and watch what visitors see of it. Danger: what it was doing is lost."""
    watch_s: float = 10.0
    """How long visitors are watched after the kill."""
    return_within_s: float = 30.0
    """In what time the killed instance must be registered, healthy, and another process."""

    def validate(self) -> None:
        """Raise `ConfigError` naming every problem at once."""
        problems = []
        for what, url in [("--node", self.node), *(("--instance", url) for url in self.instances)]:
            try:
                base_url(url, what=what)
            except ConfigError as error:
                problems.append(str(error))
        if not 1 <= self.requests <= REQUESTS_MAX:
            problems.append(f"--requests {self.requests} must be from 1 to {REQUESTS_MAX}")
        if not 0 < self.timeout_s <= 600:
            problems.append(f"--timeout-s {self.timeout_s:g} must be more than 0 and at most 600 seconds")
        for what, path in (("--sign-in-path", self.sign_in_path), ("--session-path", self.session_path)):
            if not path.startswith("/"):
                problems.append(f"{what} {path!r} must begin with /")
        if problems:
            raise ConfigError("; ".join(problems))
