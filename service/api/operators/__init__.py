"""Endpoints of reviewers, operators and admins."""
