"""Target-based surrogates: card, claims and command."""
