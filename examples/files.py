"""An app with avatars: uploaded, looked at, kept on two stores if the URL names two, and given out by links.

    NOCTULE_FILES_URL=file:///var/lib/avatars NOCTULE_APP_SECRET=$(openssl rand -hex 32) uvicorn examples.files:app

``PUT /avatar`` with the bytes of an image answers its key and a link; ``GET /avatar/{key}`` goes to the file.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, Response
from fastapi.responses import RedirectResponse

from noctule.base.errors import NoctuleError, RequestError, UnavailableError
from noctule.kits.files import FileNotFoundInStoreError, FileStore
from noctule.kits.files.serving import FileLinks

AVATAR_BYTES_MAX = 5_000_000

files = FileStore(bytes_max=AVATAR_BYTES_MAX)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Take part in repairs while the app runs."""
    keeper = asyncio.create_task(files.keep_repaired())
    yield
    keeper.cancel()
    await asyncio.wait([keeper])
    await files.aclose()


app = FastAPI(lifespan=lifespan)
app.mount("/files", FileLinks(files))  # Answers links into a folder; those to S3 go there.


@app.exception_handler(NoctuleError)
async def refused(request: Request, error: NoctuleError) -> Response:
    """What went wrong, as a status."""
    known = {FileNotFoundInStoreError: 404, UnavailableError: 503}
    status = known.get(type(error), 400 if isinstance(error, RequestError) else 500)
    return Response(str(error), status, media_type="text/plain")


@app.put("/avatar")
async def upload(request: Request) -> dict[str, str]:
    """Save the body, if it is an image by its bytes."""
    saved = await files.save(request.stream(), kind="avatars", allowed=("image/*",))
    return {"key": saved.key, "link": files.links.sign(saved.key, expires_s=3600)}


@app.get("/avatar/{key:path}")
async def show(key: str) -> Response:
    """Go to where the file is."""
    return RedirectResponse(await files.links.find(key, expires_s=60))
