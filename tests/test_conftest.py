"""What conftest.py promises."""

import subprocess
import sys

import torch
from hypothesis import settings


def test_a_test_and_what_it_starts_have_one_thread():
    code = "import torch; print(torch.get_num_threads())"
    started = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (torch.get_num_threads(), started.stdout) == (1, "1\n")


def test_no_example_of_hypothesis_has_a_deadline():
    assert settings.default.deadline is None
