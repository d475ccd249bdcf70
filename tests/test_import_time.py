import os
import subprocess
import sys
from statistics import median

import pytest

HEAVY = ("torch", "scipy", "sklearn", "numba", "matplotlib")


def seconds_of(*arguments):
    """Processor time, which does not grow with what else the machine does."""
    times = []
    for _ in range(5):
        before = os.times()
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
        after = os.times()
        times.append(after.children_user + after.children_system - before.children_user - before.children_system)
    return median(times)


@pytest.mark.parametrize(
    "command", [["list"], ["show", "sinkhorn-newton-sparse"], ["search", "transport"], ["data", "list"], ["--help"]]
)
def test_light_commands_import_nothing_heavy(command):
    code = (
        "import sys, paperworks.cli\n"
        f"try:\n    paperworks.cli.main({command!r})\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        f"loaded = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "assert not loaded, loaded"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_light_commands_answer_in_under_0_3_seconds():
    assert seconds_of("-c", "import paperworks") < 0.3
    for command in (["list"], ["show", "monge-gap"], ["search", "optimal", "transport"]):
        assert seconds_of("-m", "paperworks", *command) < 0.3
