"""Who may start: requests and tokens a minute, candidates at once."""
