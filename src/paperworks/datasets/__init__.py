"""Real data first: what dependencies carry, and what lives inside other packages."""

__all__ = ["UnavailableError"]


class UnavailableError(RuntimeError):
    """Data can't be had here; the message names the package that holds it. A claim that needs it is skipped."""
