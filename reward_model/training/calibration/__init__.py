"""From labelled replies to a calibrator, thresholds and a stopping rule."""
