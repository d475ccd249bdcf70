"""Wasserstein dependency measure for representation learning."""
