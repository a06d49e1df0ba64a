"""Checkpoints from elsewhere make nothing that is larger than they are, whatever they claim."""

import io
import os
import pickle
import re
import struct
import zipfile
from collections import OrderedDict

import pytest
import torch

from jellyplus._errors import InputError
from jellyplus.training.checkpoint import load_checkpoint, save_checkpoint

GIB = 2**30


def archive(path, pickled, storages=(bytes(4),)):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickled)
        file.writestr("archive/version", "3\n")
        for key, content in enumerate(storages):
            file.writestr(f"archive/data/{key}", content)
    return path


def called(function, *arguments):
    """A pickle of protocol 2 that calls a function by its name."""
    inside = b"".join(pickle.dumps(value, 2)[2:-1] for value in arguments)  # without head and STOP
    return b"\x80\x02c" + function.replace(".", "\n", 1).encode() + b"\n(" + inside + b"tR."


def tensor(n=1, size=(1,), stride=(1,), offset=0, key="0", kind="FloatStorage"):
    """The opcodes of a tensor as torch writes them."""
    storage = b"(X\x07\0\0\0storagectorch\n" + kind.encode() + b"\n" + pickle.dumps(key, 2)[2:-1]
    storage += b"X\x03\0\0\0cpu" + pickle.dumps(n, 2)[2:-1] + b"tQ"
    where = b"".join(pickle.dumps(value, 2)[2:-1] for value in (offset, tuple(size), tuple(stride)))
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + where + b"\x89ccollections\nOrderedDict\n)RtR"


DOUBLED = b"\x80\x02})q\x00" + b"h\x00h\x00\x86q\x00" * 64 + b"K\x01s."  # the hash of a pair of pairs of pairs ...
DEEP = b"\x80\x02})" + b"\x85" * 10**6 + b"K\x01s."
PICKLES = {
    "a bytearray of 3 GiB": (called("__builtin__.bytearray", 3 * GIB), "asks for __builtin__.bytearray"),
    "a storage of 3 GiB": (called("torch.storage.UntypedStorage", 3 * GIB), "asks for torch.storage.UntypedStorage"),
    "a tensor of 3 GiB": (called("torch.FloatTensor", 3 * GIB // 4), "asks for torch.FloatTensor"),
    "text encoded again and again": (called("_codecs.encode", "a" * 1000, "utf-32"), "asks for _codecs.encode"),
    "a function": (called("os.mkdir", "made"), "asks for os.mkdir"),
    "a dict copied": (called("collections.OrderedDict", {"a": 1}), "takes 0 positional arguments"),
    "strides of 0": (b"\x80\x02" + tensor(size=(2**15, 2**15), stride=(0, 0)) + b".", "larger than the file"),
    "a stride of 0 in a small tensor": (
        b"\x80\x02(" + 300 * tensor(size=(99,), stride=(0,)) + b"t.",
        "larger than the",
    ),
    "a storage that would grow": (b"\x80\x02" + tensor(size=(9,)) + b".", "out of bounds"),
    "a view beyond the storage": (b"\x80\x02" + tensor(offset=1) + b".", "out of bounds"),
    "a negative size": (b"\x80\x02" + tensor(size=(-1, -(2**40))) + b".", ""),
    "a storage longer than its entry": (b"\x80\x02" + tensor(n=GIB) + b".", "of another length"),
    "a storage of two types": (b"\x80\x02" + tensor() + tensor(kind="IntStorage") + b"\x86.", "two types"),
    "a storage that is not there": (b"\x80\x02" + tensor(key="7") + b".", "no item named"),
    "an opcode that torch does not use": (b"\x80\x02B\xff\xff\xff\xff.", "the opcode 66"),
    "a key of pairs": (DOUBLED, "neither text nor a number"),
    "a key that is deep": (DEEP, "neither text nor a number"),
    "more than a pickle may have": (b"\x80\x02" + b"]0" * 2**23 + b"N.", "larger than 8 MiB"),
}


@pytest.mark.parametrize("name", PICKLES)
def test_a_crafted_pickle_is_refused_for_what_it_is(tmp_path, name):
    content, reason = PICKLES[name]
    path = archive(tmp_path / "a.ckpt", content)
    with pytest.raises(InputError, match=rf"^cannot load the checkpoint \S+ \(.*{re.escape(reason)}.*\); it was left"):
        load_checkpoint(path)


def test_an_index_that_python_in_c_makes_room_for_costs_nothing(tmp_path):
    assert load_checkpoint(archive(tmp_path / "a.ckpt", b"\x80\x02Nr\xff\xff\xff\xff.")) is None


def test_what_is_behind_a_second_central_directory_is_not_there(tmp_path):
    """torch reads the directory where the end record says it is, zipfile the one right before that record."""
    hidden, shown = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(hidden, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", b"\x80\x02" + tensor(n=10**6, size=(10**6,)) + b".")
        file.writestr("archive/data/0", bytes(4 * 10**6))
        file.writestr("archive/version", "3")
    with zipfile.ZipFile(shown, "w") as file:
        for name in ("data.pkl", "data/0", "version"):
            file.writestr(f"archive/{name}", b"\x80\x02N.")
    first = hidden.getvalue()
    place = struct.unpack_from("<I", first, len(first) - 6)[0]  # of the directory, in the end record
    second = bytearray(shown.getvalue())
    second[-10:-6] = struct.pack("<I", len(first) - 22 - place)
    second[-6:-2] = struct.pack("<I", place)
    path = tmp_path / "a.ckpt"
    path.write_bytes(first[:-22] + second)
    with pytest.raises(InputError, match="cannot load the checkpoint"):
        load_checkpoint(path)


KINDS = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8]
KINDS += [torch.uint8, torch.bool]


def test_all_that_is_saved_comes_back_as_torch_loads_it(tmp_path):
    content = OrderedDict(
        [(str(kind), torch.arange(24).remainder(2).to(kind).reshape(2, 3, 2, 2)) for kind in KINDS],
        wide=torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        part=torch.arange(10.0)[3:7],
        scalar=torch.tensor(3),
        nothing=torch.empty(0, 2),
        plain=[{"a": (1, -2, 2**40, -0.5, float("inf"), "ä\ud800", None, True, False), 3: [[], {}, ()]}],
        long=list(range(3000)),
    )
    save_checkpoint(content, tmp_path / "a")
    found, wanted = load_checkpoint(tmp_path / "a"), torch.load(tmp_path / "a", weights_only=True)
    assert list(found) == list(wanted)
    for name, value in wanted.items():
        if isinstance(value, torch.Tensor):
            assert (found[name].dtype, found[name].stride()) == (value.dtype, value.stride())
            assert torch.equal(found[name], value)
            assert not found[name].requires_grad
        else:
            assert found[name] == value


def test_bytes_that_changed_are_noticed(tmp_path):
    save_checkpoint({"a": torch.zeros(1000)}, tmp_path / "a")
    content = bytearray((tmp_path / "a").read_bytes())
    content[content.index(bytes(500)) + 250] = 1
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(InputError, match="Bad CRC-32"):
        load_checkpoint(tmp_path / "a")


def test_a_pipe_in_the_place_of_a_checkpoint_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "net.pt")
    with pytest.raises(InputError, match=r"^cannot read .*net.pt: it is not a file but a pipe"):
        load_checkpoint(tmp_path / "net.pt")
