"""A checkpoint: an immutable folder of weights, manifest and calibration, and the model that is loaded from it."""
