"""What people's judgments say of the reward model and of what it chose."""
