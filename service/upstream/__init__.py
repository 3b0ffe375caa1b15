"""What the gateway calls: policies and the scorer."""
