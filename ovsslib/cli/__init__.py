"""The command `ovss`."""
