"""Floor 3: one running process: host of many replicas, router, transport, config; may import adapters, core, base.

Read api.py for what servers see of it, config.py, then node.py, which wires data_folder.py, peer_folders.py,
recovery.py, host.py, switchboard.py, router.py and conversation.py.
"""
