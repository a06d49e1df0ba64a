"""Archives are unpacked whole or not at all, and only where they should be."""

import contextlib
import io
import shutil
import stat
import tarfile
import threading
import tracemalloc
import zipfile
from concurrent.futures import ThreadPoolExecutor

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


def test_two_at_once(tmp_path, monkeypatch):
    """The second took away the first one's half, which then held what came after and was taken for whole."""
    archive, destination = write_zip(tmp_path / "cat.zip", FILES), tmp_path / "extract" / "cat"
    under_way, second_began, copy = threading.Event(), threading.Event(), shutil.copyfileobj

    def slow_copy(source, target):
        copy(source, target)
        under_way.set()
        second_began.wait(10)

    monkeypatch.setattr(shutil, "copyfileobj", slow_copy)
    with ThreadPoolExecutor() as pool:
        first = pool.submit(archives.unpack, archive, destination)
        assert under_way.wait(10)
        second = pool.submit(archives.unpack, archive, destination)
        with contextlib.suppress(TimeoutError):
            second.result(timeout=0.3)
        second_began.set()
        assert (first.result(), second.result()) == (True, False)
    assert contents(destination) == {key.removeprefix("cat/"): content for key, content in FILES.items()}
    assert [path.name for path in destination.parent.iterdir()] == ["cat"]


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


def hostile_tar(path, members, fmt=tarfile.PAX_FORMAT):
    """A packed tar of members given as (name, content, pax headers)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz", format=fmt) as file:
        for name, content, headers in members:
            info = tarfile.TarInfo(name)
            info.size, info.pax_headers = len(content), headers
            file.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize(
    ("name", "headers", "form", "reason"),
    [
        ("cat/a", {"comment": "x" * 40_000_000}, tarfile.PAX_FORMAT, "a name or other attributes have 40,0"),
        ("a" * 40_000_000, {}, tarfile.GNU_FORMAT, "a name or other attributes have 40,0"),
        ("cat/a", {"comment": "x" * 500_000}, tarfile.PAX_FORMAT, "more than 100 times its size"),
    ],
    ids=["a long pax header", "a long name", "many headers"],
)
def test_headers_are_part_of_what_is_unpacked_and_take_little_memory(tmp_path, name, headers, form, reason):
    members = [(f"{name}{i}", b"", headers) for i in range(40 if len(headers.get("comment", name)) < 10**6 else 1)]
    archive = hostile_tar(tmp_path / "in" / "cat.tar.gz", members, form)
    tracemalloc.start()
    try:
        assert reason in refusal(archive, tmp_path / "out" / "cat")
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()


def test_attributes_of_all_members_do_not_gather(tmp_path):
    path = tmp_path / "in" / "cat.tar"
    path.parent.mkdir()
    with tarfile.open(path, "w", pax_headers={f"key{i}": "value" for i in range(101)}) as file:
        file.addfile(tarfile.TarInfo("cat/a"))
    assert "attributes without end" in refusal(path, tmp_path / "out" / "cat")


def test_files_without_content_count(tmp_path):
    """A block of the disk each: 20,000 of them, packed into 0.2 MB, would take 80."""
    archive = write_tar(tmp_path / "in" / "cat.tar.gz", {f"cat/{i}": b"" for i in range(20_000)})
    assert archive.stat().st_size < 300_000
    assert "more than 100 times its size" in refusal(archive, tmp_path / "out" / "cat")


@pytest.mark.parametrize("member", ["", "\0", "\0a", "."])
def test_a_member_without_a_name(tmp_path, member):
    archive = write_zip(tmp_path / "in" / "cat.zip", {"cat/a": b"x", "Q/Q": b"y"})
    content = archive.read_bytes().replace(b"Q/Q", member.encode().ljust(3, b"\0"))
    archive.write_bytes(content)
    assert "is no plain file" in refusal(archive, tmp_path / "out" / "cat")


def test_a_negative_size(tmp_path):
    archive = write_tar(tmp_path / "in" / "cat.tar", {"cat/a": b""})
    content = bytearray(archive.read_bytes())
    content[124:136] = b"\xff" * 12  # base 256, -1
    content[148:156] = b" " * 8
    content[148:156] = b"%06o\0 " % sum(content[:512])
    archive.write_bytes(content)
    assert "negative size" in refusal(archive, tmp_path / "out" / "cat")


def test_random_damage_is_unpacked_or_refused(tmp_path):
    draw = np.random.default_rng(0)
    for number in range(150):
        name, write = WRITERS[number % 3]
        archive = write(tmp_path / "in" / name, FILES)
        content = bytearray(archive.read_bytes())
        for position in draw.integers(0, len(content), 4):
            content[position] = draw.integers(256)
        archive.write_bytes(content[: draw.integers(1, len(content) + 1)] if draw.integers(2) else content)
        with contextlib.suppress(InputError):
            archives.unpack(archive, tmp_path / "out" / "cat")
        shutil.rmtree(tmp_path / "out", ignore_errors=True)


def test_backslashes_of_windows_are_separators(tmp_path):
    archive = write_zip(tmp_path / "cat.zip", {name.replace("/", "\\"): content for name, content in FILES.items()})
    archives.unpack(archive, tmp_path / "extract" / "cat")
    assert contents(tmp_path / "extract" / "cat") == {n.removeprefix("cat/"): content for n, content in FILES.items()}
