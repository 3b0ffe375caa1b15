"""Figures of a model on held-out data, beside the baselines that could explain them."""
