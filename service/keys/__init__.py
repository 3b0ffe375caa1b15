"""API keys: random, shown once, kept as SHA-256 in one file."""
