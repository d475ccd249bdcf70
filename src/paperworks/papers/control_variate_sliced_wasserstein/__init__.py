"""Sliced Wasserstein Estimation with Control Variates."""
