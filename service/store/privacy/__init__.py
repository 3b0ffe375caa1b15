"""What is taken out, kept whole for a while, and forgotten."""
