"""Answers that wait for a reviewer, and feedback from applications."""
