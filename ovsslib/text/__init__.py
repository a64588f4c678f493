"""Words, and how they become text features."""
