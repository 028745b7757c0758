"""Bytes to messages and back: peer frames, RESP replies."""
