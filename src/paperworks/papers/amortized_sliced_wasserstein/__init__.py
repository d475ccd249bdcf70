"""Self-attention amortised distributional sliced Wasserstein: card, claims and command."""
