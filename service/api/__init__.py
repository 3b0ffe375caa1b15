"""The gateway's routes, one noun a file."""
