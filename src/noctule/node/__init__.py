"""Floor 3: one running process: host of many replicas, router, transport, config; may import adapters, core, base."""
