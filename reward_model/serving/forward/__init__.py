"""The packed forward pass: its plan, its attention, its cache of keys and values."""
