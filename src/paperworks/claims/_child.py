"""One claim in a process of its own: ``python -m paperworks.claims._child SLUG CLAIM SCALE LIMIT ANSWER``.

It writes a JSON line to the file ANSWER after each seed, so that the parent sees how far it is.
"""

import faulthandler
import json
import signal
import sys
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any

from paperworks.claims._claim import Scale, claims_of


def main(slug: str, name: str, scale: Scale, limit: float, answer: Path) -> None:
    """Measure every seed of one claim.

    Parameters
    ----------
    slug, name : str
        The claim.
    scale : {"small", "full"}
        Scale of the experiment.
    limit : float
        Seconds until the process writes where it stands to stderr and ends.
    answer : Path
        File to write to.
    """
    # The parent decides what an interrupt means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.dump_traceback_later(limit, exit=True)

    def tell(**line: Any) -> None:
        with answer.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    try:
        claim = next(each for each in claims_of(slug) if each.name == name)
        for seed in range(claim.seeds):
            measurement = claim(scale, seed)
            tell(measurement=asdict(measurement) | {"figures": _floats(measurement.figures)})
        tell(device=_device())
    except Exception as error:
        from paperworks._extras import MissingExtraError
        from paperworks.datasets import UnavailableError

        if isinstance(error, (UnavailableError, MissingExtraError)):
            tell(skipped=str(error))
        else:
            tell(error=traceback.format_exc())


def _floats(figures: Any) -> dict[str, float]:
    return {key: float(value) for key, value in figures.items()}


def _device() -> str:
    torch = sys.modules.get("torch")
    return torch.cuda.get_device_name(0) if torch is not None and torch.cuda.is_available() else "cpu"


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4]), Path(sys.argv[5]))  # type: ignore[arg-type]
