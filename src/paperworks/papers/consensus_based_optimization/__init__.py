"""Consensus-based optimization: card, claims and command."""
