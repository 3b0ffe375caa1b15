"""Checkpoints by name and version, and the aliases that point at them."""
