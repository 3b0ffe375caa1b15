"""Admission: limits on requests and tokens a minute, and on concurrent candidates."""
