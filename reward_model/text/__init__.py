"""Conversations as token ids: one formatter for training and serving."""
