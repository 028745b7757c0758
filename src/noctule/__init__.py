"""Noctule: a Python web application as a cluster that survives the loss of a machine.

The floors, lowest first: base, core, adapters, node and client, servers, gateway and kits, deploy, verify, cli.
A floor imports lower floors only, and nothing inside the package imports this face.
"""

__version__ = "0.1.0"
