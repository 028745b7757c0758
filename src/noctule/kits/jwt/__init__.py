"""Floor 4: access tokens as signed JWTs (RFC 9068), and the ring of keys that signs them.

May import base, core, adapters, and the kits beside it. Read claims.py and ring_state.py, which are the rules; then
app_keys.py, key_ring.py and access_tokens.py.
"""
