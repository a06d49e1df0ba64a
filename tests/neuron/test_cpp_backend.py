"""The compiled CPU path: built once, kept on disk, and a sentence where there is no compiler."""

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from reference import normal

from jellyplus import doctor
from jellyplus.neuron import IterativeLIFNode, backends, cpp_backend
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


@pytest.mark.parametrize("command", ['g++ "', " "])
def test_a_compiler_that_is_no_command_leaves_torch(fresh, monkeypatch, command):
    monkeypatch.setenv("CXX", command)
    assert backends.choose(torch.device("cpu"))[0] == "torch"


@needs_compiler
def test_a_tensor_is_no_constant():
    node = IterativeLIFNode(step_mode="m", backend="cpp")
    node.decay = torch.tensor(0.25)
    with pytest.raises(ValueError, match="decay is a tensor, and kernels take a number: use backend='torch'"):
        node(torch.rand(2, 3))


@needs_compiler
def test_a_library_without_the_kernels_leaves_torch(fresh, monkeypatch):
    monkeypatch.setattr(cpp_backend, "_normalised_source", lambda form: "int other;")
    backend, why = backends.choose(torch.device("cpu"))
    assert backend == "torch"
    assert "undefined symbol: forward" in why


@needs_compiler
def test_a_full_disk_is_not_the_compilers_fault(fresh, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(cpp_backend, "replace_file", full)
    backend, why = backends.choose(torch.device("cpu"))
    assert backend == "torch"
    assert f"no room for its libraries in {fresh}: No space left on device; make it a folder" in why


@needs_compiler
def test_a_cache_in_which_nothing_may_run_is_named(fresh, monkeypatch):
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_flag=os.ST_NOEXEC))
    backend, why = backends.choose(torch.device("cpu"))
    assert backend == "torch"
    assert f"{fresh} is mounted so that nothing in it may run (noexec); make it" in why


@needs_compiler
def test_a_cache_that_cannot_be_made_is_named(fresh):
    fresh.write_text("a file in its place")
    assert str(fresh) in cpp_backend.obstacle().reason


@needs_compiler
@pytest.mark.parametrize("damage", [lambda c: b"", lambda c: c[: len(c) // 2], lambda c: c[:-1] + bytes([c[-1] ^ 1])])
def test_a_damaged_library_is_built_again(fresh, damage):
    first = train()
    for path in fresh.iterdir():
        content = path.read_bytes()
        path.unlink()  # what this process has loaded must stay as it is
        path.write_bytes(damage(content))
    cpp_backend._library.cache_clear()  # as in another process
    cpp_backend.obstacle.cache_clear()
    assert torch.equal(train(), first)
    assert all(map(cpp_backend._is_whole, fresh.iterdir()))


@needs_compiler
def test_what_is_made_is_this_users_alone(fresh):
    umask = os.umask(0)
    try:
        train()
    finally:
        os.umask(umask)
    modes = {path.suffix: stat.S_IMODE(path.stat().st_mode) for path in (fresh, *fresh.iterdir())}
    assert modes == {"": 0o700, ".so": 0o600}


@needs_compiler
@pytest.mark.parametrize("mode", [0o777, 0o770, 0o1777, 0o702])
@pytest.mark.parametrize("above", [False, True])
def test_a_cache_that_others_can_write_is_refused_alike_by_doctor_and_by_runs(fresh, mode, above, capsys):
    fresh.mkdir(mode=0o700)
    (fresh.parent if above else fresh).chmod(mode)
    if above and mode & stat.S_ISVTX:  # as /tmp, where nobody moves what is another's
        assert cpp_backend.obstacle() is None
        return
    assert "others can write there; make it a folder of yours alone" in str(cpp_backend.obstacle())
    backend, why = backends.choose(torch.device("cpu"))
    assert (backend, str(fresh) in why) == ("torch", True)
    assert not doctor._print_backend("cpp")
    assert str(fresh) in capsys.readouterr().out
    with pytest.raises(ValueError, match="others can write there"):
        IterativeLIFNode(backend="cpp")
    assert list(fresh.iterdir()) == []


@needs_compiler
def test_a_library_of_another_user_is_not_loaded(fresh, monkeypatch):
    train()
    built = {path: path.stat().st_ino for path in fresh.iterdir()}
    cpp_backend.obstacle.cache_clear()
    lstat, stranger = Path.lstat, SimpleNamespace(st_uid=os.geteuid() + 1)
    monkeypatch.setattr(Path, "lstat", lambda path: stranger if path.suffix == ".so" else lstat(path))
    cpp_backend._library.cache_clear()
    train()
    assert all(path.stat().st_ino != built[path] for path in built)


@needs_compiler
def test_the_cache_of_another_user_is_refused(fresh, monkeypatch):
    fresh.mkdir(mode=0o700)
    monkeypatch.setattr(os, "geteuid", lambda: fresh.stat().st_uid + 1)
    assert f"{fresh} is not this user's" in cpp_backend.obstacle().reason


@needs_compiler
def test_a_relative_cache_is_void(fresh, monkeypatch, tmp_path):
    """A folder received from others is where one may happen to stand."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cpp_backend.obstacle() is None
    assert not (tmp_path / "here").exists()
    assert [path.suffix for path in (tmp_path / "home/.cache/jellyplus").iterdir()] == [".so"]


@needs_compiler
def test_without_a_home_or_a_cache_that_can_be_written_runs_choose_torch(fresh, monkeypatch):
    cpp_backend._compiler()  # is found by asking whether it may be run
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda *_: False)
        assert f"{fresh} cannot be written; make it" in str(cpp_backend.obstacle())
    cpp_backend.obstacle.cache_clear()
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as where neither $HOME nor the system knows one
    assert backends.choose(torch.device("cpu"))[0] == "torch"
    assert "no folder for its libraries: this user has no home" in cpp_backend.obstacle().reason


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
