"""What the board stands on: each kit, made once, and all of them on one store."""

import os
from pathlib import Path

from fastapi.templating import Jinja2Templates

from examples.board.accounts import Accounts
from examples.board.guestbook import Guestbook, new_cache
from noctule.kits.files import FileStore
from noctule.kits.jwt.access_tokens import AccessTokens
from noctule.kits.jwt.app_keys import AppKeys
from noctule.kits.jwt.key_ring import SigningKeyRing
from noctule.kits.limiter import Limiter
from noctule.kits.oauth2.checks import Checks
from noctule.kits.oauth2.client_store import ClientStore
from noctule.kits.oauth2.clients import Client
from noctule.kits.oauth2.grants import Grants
from noctule.kits.oauth2.revocations import Revocations
from noctule.kits.passwords import Login, Passwords
from noctule.kits.session_seal import KeyRing
from noctule.kits.session_users import UserSessions
from noctule.kits.store import connect

INSTANCE = os.environ.get("INSTANCE_ID", "local")
BASE = os.environ.get("BASE_URL") or os.environ.get("NOCTULE_PUBLIC_URL", "http://127.0.0.1:8080")
"""Where people reach the board, whichever instance answers; tokens name it as their issuer."""
TRUSTED_PROXIES = ("127.0.0.1", "::1")
"""The gateway, which says whose request it is."""
PICTURE_BYTES_MAX = 5_000_000

SCOPES = {
    "entries": "write entries in your name",
    "devices": "see where you are signed in, and sign out there",
}
"""What a program may ask for, in the words of the page that asks."""

store = connect()
guestbook = Guestbook(store, new_cache(store))
files = FileStore(store=store, bytes_max=PICTURE_BYTES_MAX)
templates = Jinja2Templates(Path(__file__).with_name("templates"))

# People: accounts, their passwords, and the browsers in which they are signed in.
limiter = Limiter(store)
passwords = Passwords()
accounts = Accounts(store)
login = Login(passwords, accounts.find_hash, accounts.keep_hash, limiter=limiter)
session_keys = KeyRing.of_app()
users = UserSessions(store, keys=session_keys)

# Programs: the board is its own authorization server.
grants = Grants(store)
tokens = AccessTokens(SigningKeyRing(store, AppKeys()), issuer=f"{BASE}/oauth", audience=f"{BASE}/api/v1")
checks = Checks(tokens, "hybrid", revocations=Revocations(grants))
clients = ClientStore(
    [Client("program", "A program on your machine", ("http://127.0.0.1:8765/",), scopes=tuple(SCOPES))], store
)
