"""Sign-in with an outside provider: Authlib as the OAuth 2 client, its state in the session kit.

    google = OutsideProvider("google", client_id=…, client_secret=…, metadata_url=…, scope="openid email")
    return await google.begin(request, redirect_uri)        # GET /sign-in
    identity = await google.finish(request)                 # GET /callback; then session.sign_in(…)

State, nonce and PKCE verifier are in ``request.session``, so any instance can finish what another began. Needs
``noctule[oauth-client]``, Starlette or FastAPI, and `Sessions` around the app.
"""

from typing import Any
from urllib.parse import urlsplit

from authlib.integrations.base_client import OAuthError
from authlib.integrations.starlette_client import OAuth
from httpx import HTTPError
from joserfc.errors import JoseError
from starlette.requests import Request
from starlette.responses import Response

from noctule.base.errors import ConfigError, RequestError, UnavailableError

TIMEOUT_S = 10.0
"""Of each request to the provider."""


class SignInError(RequestError):
    """The provider, or the user there, said no; or the answer is not one to what this browser asked."""

    code = "sign_in_failed"


class OutsideProvider:
    """One provider. `metadata_url` is its RFC 8414 or OpenID Connect document, which names its endpoints and issuer.

    `client_options` go to Authlib's httpx client, for tests and proxies. Raises `ConfigError`.
    """

    def __init__(
        self,
        name: str,
        *,
        client_id: str,
        metadata_url: str,
        client_secret: str = "",
        scope: str = "openid",
        client_options: dict[str, Any] | None = None,
    ) -> None:
        if urlsplit(metadata_url).scheme != "https" and urlsplit(metadata_url).hostname not in (
            "127.0.0.1",
            "localhost",
        ):
            raise ConfigError(f"provider {name!r}: metadata_url must be https")
        method = {} if client_secret else {"token_endpoint_auth_method": "none"}
        options = {"timeout": TIMEOUT_S, "code_challenge_method": "S256", "scope": scope, **method}
        self._client = OAuth().register(
            name,
            client_id=client_id,
            client_secret=client_secret or None,
            server_metadata_url=metadata_url,
            client_kwargs={**options, **(client_options or {})},
        )

    async def begin(self, request: Request, redirect_uri: str) -> Response:
        """Send the browser to the provider; of several attempts in one session the last counts. Raises
        `UnavailableError`."""
        try:
            response: Response = await self._client.authorize_redirect(request, redirect_uri)
        except HTTPError as error:
            raise UnavailableError("the provider does not answer") from error
        return response

    async def finish(self, request: Request) -> dict[str, Any]:
        """The provider's tokens, with ``userinfo`` where it gave an id token, whose signature and nonce were checked.

        Raises `SignInError`, or `UnavailableError`. Then call the session's `sign_in`, which gives it a new id.
        """
        try:
            await self._check_issuer(request)
            token: dict[str, Any] = await self._client.authorize_access_token(request)
        except (OAuthError, JoseError, ValueError) as error:
            # Authlib's words may quote what the provider sent.
            raise SignInError("the sign-in was refused, or was not begun in this browser") from error
        except HTTPError as error:
            raise UnavailableError("the provider does not answer") from error
        return token

    async def _check_issuer(self, request: Request) -> None:
        """RFC 9207 2.4: an answer of another provider is not to be exchanged here."""
        metadata = await self._client.load_server_metadata()
        said, is_promised = (
            request.query_params.get("iss"),
            metadata.get("authorization_response_iss_parameter_supported"),
        )
        if (said is None and is_promised) or (said is not None and said != metadata.get("issuer")):
            raise SignInError("the answer is not that of the provider that was asked")
