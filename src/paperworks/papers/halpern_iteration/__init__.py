"""Variance reduced Halpern iteration: card, claims and command."""
