"""Bilevel optimization under unbounded smoothness."""
