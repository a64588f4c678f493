"""Masks and prompts into edited pictures."""
