"""Floor 4: the embedded gateway: one HTTP door in front of many app instances.

May import base, core, adapters, node and client. Read model.py, config.py, gateway.py, traffic.py, then one request's
way: server.py, forward.py, heads.py, body.py, upstream.py, websocket.py; answers.py holds what the gateway says itself.
"""
