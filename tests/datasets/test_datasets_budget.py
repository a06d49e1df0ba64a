"""Threads wait for memory that others hold, and what needs more than all of it is refused at once."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from jellyplus._errors import InputError
from jellyplus.datasets import budget
from jellyplus.datasets.budget import Budget


def test_threads_never_hold_more_than_there_is_and_all_get_their_turn():
    shared, held, peaks, lock = Budget(100), [], [], threading.Lock()

    def work(needed):
        with shared.held(needed, "a"):
            with lock:
                held.append(needed)
                peaks.append(sum(held))
            time.sleep(0.002)
            with lock:
                held.remove(needed)
        return needed

    wanted = [30, 70, 100, 1, 0, 50] * 5
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, wanted)) == wanted
    assert 50 < max(peaks) <= 100


def test_what_an_error_ended_is_given_back():
    shared = Budget(10)
    for _ in range(3):
        with pytest.raises(KeyError), shared.held(10, "a"):
            raise KeyError


def test_more_than_there_is_is_refused_without_waiting():
    shared = Budget(1000)
    message = r"^a\.npz unpacks to what needs 1,001 bytes of memory, and files may take 1,000; put the original in"
    with shared.held(1000, "b"), pytest.raises(InputError, match=message), shared.held(1001, "a.npz"):
        pass


def test_a_small_machine_has_a_quarter_of_its_memory_and_an_unknown_one_2_gib(monkeypatch):
    assert 0 < budget.UNPACKED.total <= 2 * 2**30
    monkeypatch.setattr(budget.os, "sysconf", lambda name: {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1000}[name])
    assert budget._memory() == 4_096_000
    monkeypatch.delattr(budget.os, "sysconf")
    assert budget._memory() == float("inf")
