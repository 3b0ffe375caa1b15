"""From a recipe and rows of tokens to weights."""
