"""Which instance gets the next request."""
