"""The replicated data model: commands, types, expiry, snapshots."""
