"""Floor 4: an OAuth 2 authorization server for any ASGI app, with what its tokens need in the store.

May import base, core, adapters, and the kits beside it. Read errors.py, clients.py, messages.py, opaque.py and
revocation_state.py, which are the rules; grants_script.py, grants.py and client_store.py, which is what is kept;
server.py puts HTTP around it. checks.py, bearer.py and fastapi.py are for apps that take tokens.
What access tokens are is in `noctule.kits.jwt`.
"""
