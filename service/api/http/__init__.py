"""What every endpoint shares: bodies, streams, errors, draining."""
