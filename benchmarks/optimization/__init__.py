"""Races of the optimisation papers."""
