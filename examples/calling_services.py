"""An app that calls another service by its name: found in the registry, through a breaker, within its own deadline.

    NOCTULE_REGISTRY_URL=http://127.0.0.1:7501 uvicorn examples.calling_services:app

``GET /`` shows what the service ``orders`` answers, ``GET /metrics`` how that goes.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from fastapi import FastAPI, Response

from noctule.kits.breaker import CircuitBreaker
from noctule.kits.deadline import Deadlines
from noctule.kits.discovery import Discovery
from noctule.kits.discovery.httpx_transport import Caller, DiscoveryTransport
from noctule.kits.discovery.metrics import render_metrics


class Services:
    """What the app has while it runs."""

    discovery: Discovery
    transport: DiscoveryTransport
    client: httpx.AsyncClient


services = Services()


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open the door to other services, and close it."""
    async with Discovery(cache_dir=".noctule-lists") as services.discovery:
        caller = Caller(breakers={"orders": CircuitBreaker("orders")})
        services.transport = DiscoveryTransport(services.discovery, caller)
        async with httpx.AsyncClient(mounts={"noctule://": services.transport}) as services.client:
            yield


app = FastAPI(lifespan=lifespan)
app.add_middleware(Deadlines, timeout_s_max=5.0)


@app.get("/")
async def orders(response: Response) -> dict[str, str]:
    """What the service says, or that it does not."""
    try:
        answer = await services.client.get("noctule://orders/")
    except httpx.TransportError as error:
        response.status_code = 503
        return {"error": str(error)}
    return {"orders": answer.text}


@app.get("/metrics")
async def metrics() -> Response:
    """For Prometheus."""
    text = render_metrics(services.discovery.describe(), services.transport.describe())
    return Response(text, media_type="text/plain; version=0.0.4")
