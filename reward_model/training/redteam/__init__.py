"""Attacks on a reward model, and whether they win."""
