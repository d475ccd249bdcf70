"""Races of the linear algebra papers."""
