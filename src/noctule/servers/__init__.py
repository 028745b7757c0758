"""Floor 4: what a node shows to clients: RESP and HTTP; may import node and lower floors."""
