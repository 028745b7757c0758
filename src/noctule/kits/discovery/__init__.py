"""Where the instances of a service are, and requests that go to them: a client of any registry with Consul's HTTP API.

For use: discovery.py, httpx_transport.py, aiohttp_session.py. How it decides: calls.py (where a request goes, and
whether again). Around these: caller.py, metrics.py. Who is there is followed by `noctule.client.registry`, which the
gateway uses too.
"""

from noctule.client.registry.endpoints import Endpoint
from noctule.kits.discovery.calls import CallPolicy
from noctule.kits.discovery.discovery import Discovery

__all__ = ["CallPolicy", "Discovery", "Endpoint"]
