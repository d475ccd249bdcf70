"""The paper on sensitivity sampling for l_p norms: its card, claims and command."""
