"""Shortcut partitions of minor-free graphs: card, claims and command."""
