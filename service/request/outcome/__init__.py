"""Who wins, and what is decided about it. Pure."""
