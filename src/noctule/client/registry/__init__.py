"""Who is there, asked of a registry by Consul's HTTP API and kept when the registry is away.

Shared by the gateway and the kits. Read endpoints.py (what is said), registry_client.py (asking), held_list.py (what of
it is in force), list_files.py (on disk), and follower.py, which joins them.
"""
