"""Floor 4: what an ASGI app takes from Noctule; speaks only protocols that other engines speak too."""
