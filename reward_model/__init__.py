"""The outcome reward model: its format, its checkpoints, its server (`serving/`) and its trainer (`training/`)."""
