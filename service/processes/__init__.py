"""The processes of `winnow serve` on one machine."""
