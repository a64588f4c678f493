"""Data sets, their label tables, and how they are prepared."""
