"""The scorer: a reward model behind HTTP."""
