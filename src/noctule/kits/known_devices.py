"""Browsers in which a user signed in before, by a signed cookie: what others try of that user's name is not held
against them (OWASP: device cookies).

    app.add_middleware(KnownDevices)                                         # by NOCTULE_APP_SECRET
    user = await login.check(name, password, device=request.scope["device"])

The cookie signs nobody in and nothing is kept of it. It is bound to the user and to the password's hash, so whoever
takes it can guess as often as anybody, and a new password ends those of before: nobody collects budgets for later.
"""

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable, Sequence

from noctule.base.errors import ConfigError
from noctule.kits.app_secret import VARIABLE, app_secrets, checked_secrets, derived_key
from noctule.kits.asgi import App, Message, Receive, Scope, Send
from noctule.kits.session_asgi import merged
from noctule.kits.session_cookie import cookie_values
from noctule.kits.sessions import cookie_of

MAX_AGE_S = 180 * 24 * 3600
"""How long a browser keeps the cookie after the last sign-in."""

_COOKIE = re.compile(r"([A-Za-z0-9_-]{22})\.([A-Za-z0-9_-]{43})")


class Device:
    """The browser of one request: ``scope["device"]``. `sent`: the values of the cookie that it brought."""

    def __init__(self, keys: Sequence[bytes], sent: Iterable[str] = ()) -> None:
        self._keys = keys
        self._sent = [found for value in sent if (found := _COOKIE.fullmatch(value))]
        self._known: tuple[str, str] | None = None
        self.cookie: str | None = None
        """What the response has to set it to; None: nothing."""

    @property
    def has_cookie(self) -> bool:
        """Whether there is one to be looked at; it may be forged."""
        return bool(self._sent)

    def subject(self, user: str, password_hash: str) -> str | None:
        """What a limit counts instead of the address and the name; None when this user has not signed in here with the
        password that is now theirs."""
        for found in self._sent:
            name, mac = found.groups()
            if any(hmac.compare_digest(_mac(key, name, user, password_hash), mac) for key in self._keys):
                self._known = (user, name)
                return f"device:{hashlib.sha256(name.encode()).hexdigest()[:32]}"
        return None

    def trust(self, user: str, password_hash: str) -> None:
        """This user has given the right password here, or has just chosen it; the response will say so to the browser.
        One browser is the device of one user, the last; what it was counted for stays with it."""
        name = self._known[1] if self._known and self._known[0] == user else secrets.token_urlsafe(16)
        self.cookie = f"{name}.{_mac(self._keys[0], name, user, password_hash)}"


class KnownDevices:
    """ASGI middleware: ``scope["device"]`` is a `Device` in every HTTP request.

    `app_secrets_`: of which the first signs and all are accepted, on all instances the same; None is the environment's
    NOCTULE_APP_SECRET. `plain_http` as for `Sessions`. Raises `ConfigError` for no secret, or a short one.
    """

    def __init__(self, app: App, *, app_secrets_: Sequence[str] | None = None, plain_http: bool | None = None) -> None:
        found = app_secrets() if app_secrets_ is None else checked_secrets(list(app_secrets_), "known devices")
        if not found:
            raise ConfigError(f"known devices: {VARIABLE} is not set; it must be the same on all instances")
        self._app = app
        self._keys = [derived_key(each, "known devices") for each in found]
        self._cookie = cookie_of(None, plain_http, MAX_AGE_S, "strict", "/", None, what="device")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope["device"] = device = Device(self._keys, cookie_values(scope["headers"], self._cookie.name))

        async def telling(message: Message) -> None:
            if message["type"] == "http.response.start" and device.cookie is not None:
                ours = self._cookie.render_change(device.cookie)
                message = {**message, "headers": merged(list(message.get("headers", ())), ours)}
            await send(message)

        await self._app(scope, receive, telling)


def _mac(key: bytes, name: str, user: str, password_hash: str) -> str:
    # The name has one length and the digest another, so nothing can be moved from one part to the next.
    whose = hashlib.sha256(user.encode(errors="surrogatepass")).digest()
    mac = hmac.digest(key, name.encode() + whose + password_hash.encode(errors="surrogatepass"), "sha256")
    return base64.urlsafe_b64encode(mac).rstrip(b"=").decode()
