"""One folder a paper: its card, its claims and its command."""
