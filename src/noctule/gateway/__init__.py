"""Floor 4: the embedded gateway: one HTTP door in front of many app instances."""
