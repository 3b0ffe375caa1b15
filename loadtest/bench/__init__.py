"""Benchmarks that anyone can rerun: what this machine can do, and how near Winnow and its peers come to it."""
