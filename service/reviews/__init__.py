"""What waits for a person, and what applications say of answers."""
