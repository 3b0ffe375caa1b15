"""The network: a base model and the head that scores."""
