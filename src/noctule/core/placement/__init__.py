"""Which slot a key has, and which partition a slot. Read slots.py."""
