"""The probe holds still under edits that change text alone, and moves under faults, where they matter and nowhere else.

About a second of one core for each pair of an edit and a run.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from edits import FAULTS, HARMLESS, RUNS

from jellyplus.reproduction import probe


def probed(edits):
    """What the package does under each of them: the values of every run."""
    ended = subprocess.run(
        [sys.executable, Path(__file__).with_name("zygote.py")],
        input=json.dumps({"runs": RUNS, "edits": edits}),
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(ended.stdout)
    assert not (broken := {name: text for name, text in found.items() if isinstance(text, str)}), broken
    return found


def moved(before, after):
    """What differs, by run."""
    return {run: said for run in RUNS if (said := probe.differences(before[run], after[run]))}


def test_harmless_edits_move_nothing():
    """All of them at once: each has lines of its own."""
    found = probed({"nothing": [], "all": [edit for edits in HARMLESS.values() for edit in edits]})
    assert len(HARMLESS) > 10
    assert moved(found["nothing"], found["all"]) == {}


def test_faults_move_the_runs_that_they_concern_and_no_others():
    found = probed({"nothing": []} | {name: [edit] for name, (edit, _) in FAULTS.items()})
    before = found["nothing"]
    assert len(FAULTS) > 30
    wrong = {}
    for name, (_, expected) in FAULTS.items():
        said = moved(before, found[name])
        if said.keys() != expected:
            wrong[name] = {
                "not noticed by": sorted(expected - said.keys()),
                "noticed by": {run: sorted(said[run].values())[:3] for run in said.keys() - expected},
            }
    assert wrong == {}
