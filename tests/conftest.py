"""What lets tests run side by side: pytest-xdist starts as many processes as there are cores.

Each has one thread, and so has what it starts; and no example of hypothesis fails because it had to wait.
"""

import functools
import gc
import os

import pytest
from hypothesis import settings

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported, which nothing has done yet

settings.register_profile("tests", deadline=None)
settings.load_profile("tests")


@pytest.fixture(scope="session", autouse=True)
def only_young_garbage_is_collected():
    """Training collects garbage before it forks, which among all that a process of tests holds takes half a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gc, "collect", functools.partial(gc.collect, 1))
        yield
