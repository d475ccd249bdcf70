"""Sequences of positions, learned from examples: card, claims and command."""
