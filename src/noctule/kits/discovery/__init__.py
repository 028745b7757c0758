"""Where the instances of a service are, and requests that go to them: a client of any registry with Consul's HTTP API.

For use: discovery.py, httpx_transport.py, aiohttp_session.py. How it decides: held_list.py (which endpoints are in
force), calls.py (where a request goes, and whether again). Around these: follower.py, registry_client.py,
list_files.py, endpoints.py, caller.py, metrics.py.
"""

from noctule.kits.discovery.calls import CallPolicy
from noctule.kits.discovery.discovery import Discovery
from noctule.kits.discovery.endpoints import Endpoint

__all__ = ["CallPolicy", "Discovery", "Endpoint"]
