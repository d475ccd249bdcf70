"""Claims: what a paper states, re-checked by one call, and the ledger of what was measured."""

from paperworks.claims._claim import Claim, Criterion, Curve, Measurement, Scale, at_least, at_most, claim, claims_of

__all__ = ["Claim", "Criterion", "Curve", "Measurement", "Scale", "at_least", "at_most", "claim", "claims_of"]
