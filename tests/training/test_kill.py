"""Killed again and again, a run ends with the numbers of one that nothing happened to.

Five kills; ``KILLS=20 python -m pytest tests/training/test_kill.py`` makes it twenty.
"""

import os
import subprocess
import sys
from pathlib import Path

SOAK = Path(__file__).parents[2] / "benchmarks" / "soak.py"


def test_kills_at_random_moments_and_while_files_are_written_cost_an_epoch_each_at_most():
    kills = os.environ.get("KILLS", "5")
    found = subprocess.run([sys.executable, SOAK, "--kills", kills], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr
    assert found.stdout.splitlines()[-1].startswith(f"{kills} kills")
