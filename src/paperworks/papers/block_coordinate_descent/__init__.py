"""Block coordinate descent: card, claims and command."""
