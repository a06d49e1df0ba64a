"""The compiled CPU path: built once, kept on disk, and a sentence where there is no compiler."""

import subprocess
import sys

import pytest
import torch
from reference import normal

from jellyplus.neuron import IterativeLIFNode, cpp_backend
from jellyplus.surrogate import Rectangular

needs_compiler = pytest.mark.skipif(
    cpp_backend.obstacle() is not None, reason=f"backend='cpp' cannot run: {cpp_backend.obstacle()}"
)


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """An empty cache on disk, and nothing remembered in this process."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    remembered = (cpp_backend._library, cpp_backend._compiler, cpp_backend.obstacle)
    for function in remembered:
        function.cache_clear()
    yield tmp_path / "jellyplus"
    for function in remembered:
        function.cache_clear()


def train(**arguments):
    x = normal(3, 4, dtype=torch.float32).requires_grad_()
    IterativeLIFNode(step_mode="m", backend="cpp", **arguments)(x).sum().backward()
    return x.grad


@needs_compiler
def test_a_library_is_built_once_for_each_form_and_found_again(fresh, monkeypatch):
    commands, run = [], subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: commands.append(a[0]) or run(*a, **k))
    first = train(surrogate_function=Rectangular(width=0.7))
    built = sorted(fresh.iterdir())
    assert [path.suffix for path in built] == [".so", ".so"]  # the probe's and the node's
    for v_th in (0.5, 0.6):
        train(surrogate_function=Rectangular(width=0.7), v_threshold=v_th)
    cpp_backend._library.cache_clear()  # as in another process
    assert torch.equal(train(surrogate_function=Rectangular(width=0.7)), first)
    assert sorted(fresh.iterdir()) == built
    assert sum("-shared" in map(str, command) for command in commands) == 2


@needs_compiler
def test_two_processes_may_build_at_the_same_time(fresh):
    code = "import torch, jellyplus as j; j.neuron.SRIFNode(step_mode='m', backend='cpp')(torch.ones(2, 3))"
    runs = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for run in runs:
        assert run.wait() == 0, run.stderr.read()
    assert all(path.suffix == ".so" for path in fresh.iterdir())


def test_without_a_compiler_one_sentence_says_so(fresh, monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(fresh))
    with pytest.raises(ValueError, match=r"backend='cpp' cannot run here: no C\+\+ compiler found.*; install g\+\+"):
        IterativeLIFNode(backend="cpp")
    assert not fresh.exists()


def test_a_compiler_that_fails_is_quoted(fresh, monkeypatch, tmp_path):
    script = tmp_path / "broken++"
    script.write_text('#!/bin/sh\n[ "$1" = --version ] && exit 0\necho "no such header" >&2\nexit 1\n')
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    assert "broken++ cannot build the kernels: no such header" in cpp_backend.obstacle().reason
    assert list(fresh.iterdir()) == []


def test_a_compiler_that_is_not_there_is_named(fresh, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "no-such-compiler" in cpp_backend.obstacle().reason


def test_a_compiler_that_only_fails_is_named(fresh, monkeypatch):
    monkeypatch.setenv("CXX", "false")
    assert "'false'" in cpp_backend.obstacle().reason


@needs_compiler
def test_a_cache_that_cannot_be_made_is_named(fresh):
    fresh.write_text("a file in its place")
    assert str(fresh) in cpp_backend.obstacle().reason


@needs_compiler
def test_what_the_processor_is_belongs_to_the_key(fresh, monkeypatch):
    """-march=native: a home folder may be shared by different machines."""
    train()
    before = set(fresh.iterdir())
    cpp_backend._library.cache_clear()
    monkeypatch.setattr(cpp_backend, "_processor", lambda: "another one")
    train()
    assert set(fresh.iterdir()) > before


@needs_compiler
def test_a_gpu_tensor_is_refused():
    with pytest.raises(ValueError, match=r"backend='cpp' runs on cpu tensors and the input is on meta"):
        IterativeLIFNode(step_mode="m", backend="cpp")(torch.zeros(2, 3, device="meta"))


@needs_compiler
def test_any_number_of_time_steps_runs_with_the_same_library():
    built = cpp_backend._library.cache_info
    IterativeLIFNode(step_mode="m", backend="cpp")(torch.zeros(1, 3))
    before = built().misses
    IterativeLIFNode(step_mode="m", backend="cpp")(torch.zeros(3000, 3))
    assert built().misses == before
