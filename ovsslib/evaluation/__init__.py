"""Data set -> measured numbers."""
