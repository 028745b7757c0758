"""Floor 4: the gateway: one HTTP door in front of many app instances, embedded or by another engine.

May import base, core, adapters, node and client. Read model.py, gateway.py and traffic.py, then one request's way:
downstream.py (or tls.py, h2.py), plane.py, exchange.py, heads.py, body.py, upstream.py, tunnel.py; answers.py holds
what the gateway says itself. process.py is `noctule gateway`, engines/ drives HAProxy and nginx by the same model.
"""
