"""The gateway: an OpenAI-compatible front for best-of-N with a reward model (start at `pipeline.py`)."""
