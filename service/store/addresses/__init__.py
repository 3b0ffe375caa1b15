"""Addresses of stores, as hosted providers hand them out."""
