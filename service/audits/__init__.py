"""Random samples of answers, judged blind."""
