"""``jellyplus data check``: what it finds, counts and names, and what it returns."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from recordings import write_cifar10_dvs

from jellyplus.__main__ import main

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def write_cifar10(root, train=2, test=1):
    for split, examples in {"train": train, "test": test}.items():
        for name in CLASSES:
            folder = root / "cifar10" / split / name
            folder.mkdir(parents=True)
            for number in range(examples):
                Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(folder / f"{number}.png")


def write_mnist(root, labels=(3, 3, 7)):
    raw = root / "MNIST/raw"
    raw.mkdir(parents=True)
    n = len(labels)
    for prefix in ("train", "t10k"):
        images = bytes([0, 0, 8, 3]) + np.array([n, 28, 28], ">u4").tobytes() + bytes(n * 28 * 28)
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(images)
        content = bytes([0, 0, 8, 1]) + np.array([n], ">u4").tobytes() + bytes(labels)
        (raw / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(content))


def check(capsys, root):
    code = main(["data", "check", str(root)])
    return code, capsys.readouterr()


def row(out, first):
    (line,) = [line for line in out.splitlines() if line.startswith("|") and line.split("|")[1].strip() == first]
    return [cell.strip() for cell in line.strip("|").split("|")[1:]]


def test_counts_stand_beside_the_published_ones(tmp_path, capsys):
    write_cifar10(tmp_path)
    code, (out, _) = check(capsys, tmp_path)
    assert code == 1
    assert "cifar10, image folder: not as published" in out
    assert "20 train (published: 50,000), 10 test (published: 10,000)" in out
    assert row(out, "frog") == ["2", "1"]
    assert row(out, "published") == ["5000", "1000"]
    assert "unreadable: none" in out


def test_every_data_set_of_a_folder_is_read(tmp_path, capsys):
    write_cifar10(tmp_path)
    write_mnist(tmp_path)
    _, (out, _) = check(capsys, tmp_path)
    assert "cifar10, image folder" in out
    assert "mnist, IDX files MNIST/raw" in out
    assert (row(out, "3"), row(out, "7")) == (["2", "2"], ["1", "1"])


def test_all_unreadable_files_are_named_and_not_counted(tmp_path, capsys):
    write_cifar10(tmp_path)
    for name in ("train/cat/0.png", "test/dog/0.png"):
        (tmp_path / "cifar10" / name).write_bytes(b"no image")
    code, (out, _) = check(capsys, tmp_path)
    assert code == 1
    assert (row(out, "cat"), row(out, "dog")) == (["1", "1"], ["2", "0"])
    assert "unreadable: 2" in out
    assert "train/cat/0.png" in out
    assert "test/dog/0.png" in out


def test_a_whole_data_set_is_complete(tmp_path, capsys, monkeypatch):
    from jellyplus.datasets import mnist

    write_mnist(tmp_path, range(10))
    monkeypatch.setattr(mnist, "PUBLISHED", {"train": 10, "test": 10})
    code, (out, _) = check(capsys, tmp_path)
    assert code == 0
    assert "mnist, IDX files MNIST/raw: complete" in out


@pytest.mark.parametrize("is_there", [True, False])
def test_a_folder_without_data_is_one_sentence(tmp_path, capsys, is_there):
    root = tmp_path / "data"
    if is_there:
        root.mkdir()
    code, (out, err) = check(capsys, root)
    assert (code, out) == (2, "")
    assert err.startswith("jellyplus: error: ")
    assert err.count("\n") == 1
    assert ("holds no data set" if is_there else "is not a readable folder") in err


# --- data prepare ------------------------------------------------------------------------------------------------


def prepared(root):
    return {path: path.stat().st_mtime_ns for path in root.glob("**/jellyplus_frames/**/*.npy")}


def test_prepare_makes_the_frames_of_a_recipe_once(tmp_path, capsys):
    write_cifar10_dvs(tmp_path, per_class=2)
    recipe = Path(__file__).parents[2] / "recipes/tdbn/cifar10dvs_resnet19_t10.yaml"
    words = ["data", "prepare", str(tmp_path), "--recipe", str(recipe)]
    assert main(words) == 0
    assert "20 recordings became frames" in capsys.readouterr().out
    made = prepared(tmp_path)
    assert len(made) == 20
    assert main(words) == 0
    assert "0 recordings became frames" in capsys.readouterr().out
    assert prepared(tmp_path) == made


def test_prepare_without_a_recipe_only_unpacks(tmp_path, capsys):
    write_cifar10_dvs(tmp_path, per_class=2)
    assert main(["data", "prepare", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "no archive to unpack\n"
    assert prepared(tmp_path) == {}


def test_prepare_for_a_recipe_without_recordings_is_one_sentence(tmp_path, capsys):
    recipe = Path(__file__).parents[2] / "recipes/tdbn/cifar10_resnet19_t2.yaml"
    assert main(["data", "prepare", str(tmp_path), "--recipe", str(recipe)]) == 2
    assert capsys.readouterr().err == (
        "jellyplus: error: cifar10 has no recordings to prepare: give a recipe on cifar10_dvs, dvs128_gesture, "
        "event_camera\n"
    )
