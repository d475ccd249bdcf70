"""Graph valuation: card, claims and command."""
