"""Sinkhorn sweeps, then sparse Newton steps: card, claims and command."""
