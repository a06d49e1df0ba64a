"""Archives are unpacked whole or not at all, and only where they should be."""

import io
import shutil
import stat
import tarfile
import zipfile

import numpy as np
import pytest

from jellyplus._errors import InputError
from jellyplus.datasets import archives

FILES = {
    f"cat/{name}": np.random.default_rng(seed).bytes(5000)
    for seed, name in enumerate(("a.aedat", "b.aedat", "deep/c.aedat"))
}


def write_zip(path, files, external_attr=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = external_attr
            archive.writestr(info, content, zipfile.ZIP_DEFLATED)
    return path


def write_tar(path, files, **fields):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for field, value in fields.items():
                setattr(info, field, value)
            archive.addfile(info, io.BytesIO(content))
    return path


def contents(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def refusal(archive, destination):
    with pytest.raises(InputError) as caught:
        archives.unpack(archive, destination)
    assert list(destination.parent.iterdir()) == []
    message = str(caught.value)
    assert str(archive) in message
    assert "\n" not in message
    return message


WRITERS = [("cat.zip", write_zip), ("cat.tar", write_tar), ("cat.tar.gz", write_tar)]


@pytest.mark.parametrize(("name", "write"), WRITERS)
@pytest.mark.parametrize("strip", [False, True])
def test_unpack_with_and_without_a_top_folder(tmp_path, name, write, strip):
    files = {key.removeprefix("cat/") if strip else key: content for key, content in FILES.items()}
    archive = write(tmp_path / "download" / name, files)
    destination = tmp_path / "extract" / "cat"
    assert archives.unpack(archive, destination) is True
    assert contents(destination) == {key.removeprefix("cat/"): content for key, content in FILES.items()}
    assert [path.name for path in destination.parent.iterdir()] == ["cat"]


def test_what_is_there_stays_and_what_was_interrupted_is_repeated(tmp_path):
    archive = write_zip(tmp_path / "cat.zip", FILES)
    leftover = tmp_path / "extract" / ".cat.unpacking"
    leftover.mkdir(parents=True)
    (leftover / "half.aedat").touch()
    destination = tmp_path / "extract" / "cat"
    assert archives.unpack(archive, destination)
    assert "half.aedat" not in contents(destination)
    (destination / "a.aedat").write_bytes(b"mine")
    assert archives.unpack(archive, destination) is False
    assert (destination / "a.aedat").read_bytes() == b"mine"
    assert not leftover.exists()


@pytest.mark.parametrize(("name", "write"), WRITERS)
@pytest.mark.parametrize("member", ["../evil", "cat/../../evil", "/evil", "..\\evil"])
def test_names_that_lead_outside(tmp_path, name, write, member):
    archive = write(tmp_path / "in" / name, {**FILES, member: b"x"})
    assert "leads outside" in refusal(archive, tmp_path / "out" / "cat")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar(tmp_path, kind):
    archive = write_tar(tmp_path / "in" / "cat.tar", {"cat/a": b""}, type=kind, linkname="/etc/passwd")
    assert "no plain file" in refusal(archive, tmp_path / "out" / "cat")


def test_a_link_in_a_zip(tmp_path):
    archive = write_zip(tmp_path / "in" / "cat.zip", {"cat/a": b"/etc/passwd"}, (stat.S_IFLNK | 0o777) << 16)
    assert "no plain file" in refusal(archive, tmp_path / "out" / "cat")


@pytest.mark.parametrize(("name", "write"), [WRITERS[0], WRITERS[2]])
def test_a_bomb(tmp_path, name, write):
    archive = write(tmp_path / "in" / name, {"cat/a": bytes(5_000_000)})
    assert "more than 100 times its size" in refusal(archive, tmp_path / "out" / "cat")


def test_a_full_disk(tmp_path, monkeypatch):
    archive = write_zip(tmp_path / "in" / "cat.zip", FILES)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6 - 9000, 9000))
    assert "than is free" in refusal(archive, tmp_path / "out" / "cat")


@pytest.mark.parametrize(("name", "write"), WRITERS)
@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"no archive", lambda b: b""])
def test_damage(tmp_path, name, write, damage):
    archive = write(tmp_path / "in" / name, FILES)
    archive.write_bytes(damage(archive.read_bytes()))
    assert "cannot unpack" in refusal(archive, tmp_path / "out" / "cat")


def test_changed_bytes_fail_the_checksum(tmp_path):
    archive = write_zip(tmp_path / "in" / "cat.zip", FILES)
    content = bytearray(archive.read_bytes())
    content[3000] ^= 255
    archive.write_bytes(content)
    assert "cannot unpack" in refusal(archive, tmp_path / "out" / "cat")


def test_two_members_of_one_name(tmp_path):
    archive = tmp_path / "in" / "cat.tar"
    write_tar(archive, {"cat/a": b"1"})
    with tarfile.open(archive, "a") as file:
        file.addfile(tarfile.TarInfo("cat/a"))
    assert "cannot unpack" in refusal(archive, tmp_path / "out" / "cat")


def test_permissions_in_the_archive_do_not_count(tmp_path):
    archive = write_tar(tmp_path / "cat.tar", FILES, mode=0o4777)
    archives.unpack(archive, tmp_path / "cat")
    assert not (tmp_path / "cat" / "a.aedat").stat().st_mode & (stat.S_ISUID | stat.S_IXUSR)
