"""The store: answers with their candidates, reviews, feedback, audits, and the log of operators' actions."""
