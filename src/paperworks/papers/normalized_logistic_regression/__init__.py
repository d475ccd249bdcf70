"""Normalized logistic regression: card, claims and command."""
