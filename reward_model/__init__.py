"""The outcome reward model: its format, checkpoints, server (`serving/`) and trainer (`training/`)."""
