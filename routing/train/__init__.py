"""Offline training of the router: data, the student encoder, the n-gram model, evaluation."""
