"""What of a conversation is read, and in what spelling: texts in, texts out."""
