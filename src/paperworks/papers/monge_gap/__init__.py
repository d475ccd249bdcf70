"""The Monge gap: card, claims and command."""
