"""Krylov subspace recycling for sequences of systems: card, claims and command."""
