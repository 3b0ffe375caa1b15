"""Candidates: sampled, scored, stopped."""
