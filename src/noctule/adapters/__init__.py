"""Floor 2: the only floor that touches disk, sockets and the clocks of the system; may import core and base."""
