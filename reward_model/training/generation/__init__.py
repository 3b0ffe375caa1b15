"""Candidates and judgments from outside: endpoints that answer, a gateway whose reviews are collected."""
