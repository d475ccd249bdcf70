"""Claims: what a paper states, re-checked by one call, and the ledger of what was measured."""

from paperworks.claims._claim import Claim, Criterion, Curve, Measurement, Scale, at_least, at_most, claim, claims_of
from paperworks.claims._ledger import default_ledger, latest, read_ledger
from paperworks.claims._running import Progress, check, select, verdicts
from paperworks.claims._verdict import Judged, Verdict, format_number, judge

__all__ = [
    "Claim",
    "Criterion",
    "Curve",
    "Judged",
    "Measurement",
    "Progress",
    "Scale",
    "Verdict",
    "at_least",
    "at_most",
    "check",
    "claim",
    "claims_of",
    "default_ledger",
    "format_number",
    "judge",
    "latest",
    "read_ledger",
    "select",
    "verdicts",
]
