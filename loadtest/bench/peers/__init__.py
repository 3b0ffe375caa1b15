"""Who Winnow is measured against: scoring and best-of-n by others."""
