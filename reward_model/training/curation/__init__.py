"""Preference data, before anything is trained on it: measured, put together, and made."""
