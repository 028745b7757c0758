"""Floor 4: what a node shows to clients: RESP, HTTP and DNS; may import node and lower floors."""
