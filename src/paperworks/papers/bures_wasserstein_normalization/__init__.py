"""Learning to Normalize on the SPD Manifold under Bures-Wasserstein Geometry."""
