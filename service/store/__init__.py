"""What the gateway remembers: answers with their candidates, reviews, feedback, audits, operators' actions."""
