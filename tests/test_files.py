"""write_atomically: the old content or the new, never a part, and nothing left behind."""

import errno
import os
import stat

import pytest

from jellyplus._errors import InputError
from jellyplus._files import user_cache, write_atomically


def test_writes_the_bytes_and_makes_parent_folders(tmp_path):
    path = tmp_path / "results" / "embedded" / "run.json"
    content = bytes(range(256)) * 1000
    write_atomically(path, content)
    assert path.read_bytes() == content
    assert [p.name for p in path.parent.iterdir()] == ["run.json"]


def test_takes_a_string_and_replaces_what_is_there(tmp_path):
    path = tmp_path / "a"
    write_atomically(str(path), b"old and longer")
    write_atomically(str(path), b"new")
    assert path.read_bytes() == b"new"


def test_a_relative_name_lies_in_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_atomically("a.json", b"{}")
    assert (tmp_path / "a.json").read_bytes() == b"{}"


@pytest.mark.parametrize("exists", [True, False])
@pytest.mark.parametrize("call", ["fsync", "replace", "chmod"])
def test_a_full_disk_leaves_the_old_content_and_no_temporary_file(tmp_path, monkeypatch, exists, call):
    path = tmp_path / "table.csv"
    if exists:
        path.write_bytes(b"old")

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(InputError, match=r"cannot write .*table\.csv: No space left on device"):
        write_atomically(path, b"new")
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == (["table.csv"] if exists else [])
    assert not exists or path.read_bytes() == b"old"


def refuse_to_sync_folders(monkeypatch, number):
    sync = os.fsync

    def refuse(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EINVAL, errno.ENOTSUP])
def test_a_folder_that_cannot_be_synced_holds_the_file_all_the_same(tmp_path, monkeypatch, number):
    """As on Windows, which opens no folder, and on some network file systems."""
    refuse_to_sync_folders(monkeypatch, number)
    write_atomically(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"


def test_a_disk_that_fails_is_not_overlooked(tmp_path, monkeypatch):
    refuse_to_sync_folders(monkeypatch, errno.EIO)
    with pytest.raises(InputError, match="Input/output error"):
        write_atomically(tmp_path / "a", b"new")


def test_a_file_system_without_permissions_is_written(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "chmod", refuse)
    write_atomically(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"


@pytest.mark.parametrize("home", ["home", "~nosuchuser"])
def test_a_home_that_depends_on_the_folder_is_none(monkeypatch, home):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", home)
    with pytest.raises(RuntimeError, match="this user has no home"):
        user_cache()


def test_an_interrupt_leaves_the_old_content_and_is_not_hidden(tmp_path, monkeypatch):
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_readers_never_see_a_part(tmp_path, monkeypatch):
    """At the moment of renaming, the old file is whole and the new one is whole beside it, in the same folder."""
    path, replace, seen = tmp_path / "a", os.replace, []
    path.write_bytes(b"old")

    def spy(source, target):
        with open(source, "rb") as new, open(target, "rb") as old:
            seen.append((os.path.dirname(source), new.read(), old.read()))
        replace(source, target)

    monkeypatch.setattr(os, "replace", spy)
    write_atomically(path, b"new")
    assert seen == [(str(tmp_path), b"new", b"old")]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_follow_the_umask(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / "a", b"")
        assert os.umask(umask) == umask  # and the umask is as it was
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == mode


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match=r"cannot write .*--out$"):
        write_atomically(tmp_path / "file" / "a", b"")


def test_a_folder_in_the_way_stays(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(InputError, match="cannot write"):
        write_atomically(tmp_path / "a", b"x")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
