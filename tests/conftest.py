"""What holds for all tests, and what lets them run side by side: pytest-xdist starts a process for every core.

Each has one thread, and so has what it starts; and no example of hypothesis fails because it had to wait.
"""

import os

import pytest
from hypothesis import settings

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported, which nothing has done yet

settings.register_profile("tests", deadline=None)
settings.load_profile("tests")


@pytest.fixture(scope="session", autouse=True)
def _made_up_probes(tmp_path_factory):
    """Tests that train in this process keep no probe for others to find, and make none: some break what is probed.

    ``tests/reproduction/probe`` has those of real probes.
    """
    from jellyplus.reproduction import today

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(today, "_probe", lambda plugins, record, run: {"name": run.name})
        patch.setattr(today.Today, "_kept", lambda *_: None)
        patch.setattr(today.Today, "_file", lambda self, name: tmp_path_factory.getbasetemp() / "probes" / name)
        yield
