"""ImageNet from folders of real image files of many kinds, made here."""

import contextlib
import os
import pickle
import re
import struct
import zlib
from functools import partial

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from jellyplus.__main__ import main
from jellyplus._errors import InputError
from jellyplus.datasets import ImageSettings, load
from jellyplus.datasets.base import UnreadableError
from jellyplus.datasets.imagenet import survey
from jellyplus.datasets.order import AugmentedSplit, EvaluationSplit, collate
from jellyplus.datasets.transforms import augmentation, normalisation

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SETTINGS = ImageSettings(side=24, resize=28, unreadable="stop")
WNIDS = ("n01440764", "n01443537", "n02084071")
SIZES = [(40, 30), (30, 52), (24, 24), (61, 33)]  # width, height


def picture(size, seed=0):
    """Smooth colours, which JPEG keeps."""
    corners = np.random.default_rng(seed).integers(0, 256, (3, 3, 3), dtype=np.uint8)
    return Image.fromarray(corners).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture
def root(tmp_path):
    """Three classes; made in an order that is not the sorted one."""
    for i, wnid in enumerate(reversed(WNIDS)):
        for split, count in (("train", 3), ("val", 2)):
            folder = tmp_path / split / wnid
            folder.mkdir(parents=True)
            for j in reversed(range(count)):
                picture(SIZES[(i + j) % 4], 10 * i + j).save(folder / f"{wnid}_{j}.JPEG")
    return tmp_path


def imagenet(root, **changes):
    return load("imagenet", str(root), images=ImageSettings(**{**vars(SETTINGS), **changes}))


def refused(root):
    with pytest.raises(InputError) as caught:
        imagenet(root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def opened(path):
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


# --- What is found -----------------------------------------------------------------------------------------------


def test_files_and_labels_are_torchvisions(root):
    data = imagenet(root)
    assert (data.classes, data.kind, data.stand_in, data.skip_unreadable) == (3, "images", False, False)
    for split, name, count in ((data.train, "train", 9), (data.test, "val", 6)):
        samples = torchvision.datasets.ImageFolder(root / name).samples
        assert len(split) == len(samples) == count
        assert split.inputs.shape == (count, 3, 24, 24)
        assert split.labels.tolist() == [label for _, label in samples]
        assert split.labels.dtype == torch.int64
        for index, (path, _) in enumerate(samples):
            assert torch.equal(split.inputs[index], opened(path))
    assert data.source == "ILSVRC2012, training and validation, a subset of 3 classes"


def test_a_thousand_classes_are_no_subset(tmp_path):
    for i in range(1000):
        for split in ("train", "val"):
            folder = tmp_path / split / f"n{i:08}"
            folder.mkdir(parents=True)
            (folder / "a.JPEG").touch()
    data = imagenet(tmp_path)
    assert (data.classes, data.source) == (1000, "ILSVRC2012, training and validation")
    assert data.train.labels.tolist() == list(range(1000))


@pytest.mark.parametrize("inside", ["imagenet", "ILSVRC2012", "Data/CLS-LOC", "ILSVRC/Data/CLS-LOC"])
def test_it_may_lie_deeper(tmp_path, root, inside):
    outer = tmp_path / "outer"
    (outer / inside).mkdir(parents=True)
    for name in ("train", "val"):
        (root / name).rename(outer / inside / name)
    assert len(imagenet(outer).train) == 9


def test_the_pickle_beside_it_is_not_opened(root):
    class Trap:
        def __reduce__(self):
            return os._exit, (1,)

    (root / "meta.bin").write_bytes(pickle.dumps(Trap()))
    assert imagenet(root).classes == 3


def test_what_is_no_image_is_not_listed(root):
    for name in (".DS_Store", "._n01440764_0.JPEG", "Thumbs.db", "list.txt"):
        (root / "train" / WNIDS[0] / name).write_text("no image")
    assert len(imagenet(root).train) == 9


def test_the_fingerprint_is_of_names_sizes_and_side(root):
    first = imagenet(root).fingerprint
    assert imagenet(root, resize=None, unreadable="skip").fingerprint == first
    assert imagenet(root, side=20).fingerprint != first
    path = root / "val" / WNIDS[1] / f"{WNIDS[1]}_0.JPEG"
    path.rename(path.with_name("other.JPEG"))
    renamed = imagenet(root).fingerprint
    assert renamed != first
    with open(path.with_name("other.JPEG"), "ab") as file:
        file.write(b"x")
    assert imagenet(root).fingerprint not in (first, renamed)


# --- What is refused ---------------------------------------------------------------------------------------------


def test_an_empty_folder(tmp_path):
    assert "needs train/<wnid>/*.JPEG and val/<wnid>/*.JPEG" in refused(tmp_path)


def test_packed_archives(tmp_path):
    (tmp_path / "ILSVRC2012_img_train.tar").touch()
    assert re.search(r"img_train\.tar is still packed; torchvision\.datasets\.ImageNet unpacks", refused(tmp_path))


def test_packed_classes(root):
    for wnid in WNIDS:
        (root / "train" / wnid).rename(root / wnid)
        (root / "train" / f"{wnid}.tar").touch()
    assert "holds archives of the classes; unpack each into a folder of its name" in refused(root)


def test_validation_images_that_are_not_sorted(root):
    for wnid in WNIDS:
        (root / "val" / wnid).rename(root / wnid)
    picture((30, 30)).save(root / "val" / "ILSVRC2012_val_00000001.JPEG")
    assert re.search(r"the images in \S+val are not sorted into folders of classes", refused(root))


def test_a_class_in_one_split_only(root):
    (root / "val" / WNIDS[2]).rename(root / WNIDS[2])
    assert re.search(rf"train/{WNIDS[2]} has no like in val", refused(root))


def test_a_folder_of_another_name(root):
    (root / "train" / "cats").mkdir()
    assert "cats is not named by a wnid, like n01440764" in refused(root)


def test_a_class_without_images(root):
    for path in (root / "val" / WNIDS[1]).iterdir():
        path.unlink()
    assert re.search(rf"val/{WNIDS[1]} has no images", refused(root))


# --- Files of every kind -----------------------------------------------------------------------------------------


def first_image(root, save):
    """What is decoded after ``save`` has written the first image of training anew."""
    save(root / "train" / WNIDS[0] / f"{WNIDS[0]}_0.JPEG")
    return imagenet(root).train.inputs[0]


@pytest.mark.parametrize("mode", ["L", "CMYK", "P", "1", "RGBA", "LA"])
def test_every_mode_becomes_rgb(root, mode):
    kind = "JPEG" if mode in ("L", "CMYK") else "PNG"
    image = picture((31, 23)).convert(mode)
    made = first_image(root, lambda path: image.save(path, format=kind))
    assert (made.shape, made.dtype) == ((3, 23, 31), torch.uint8)
    expected = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).int()
    assert (made.int() - expected).abs().float().mean() < (4 if kind == "JPEG" else 1e-9)


def test_sixteen_bits_keep_the_upper_eight(root):
    values = np.arange(20 * 30, dtype=np.uint16).reshape(20, 30) * 100
    made = first_image(root, lambda path: Image.fromarray(values).save(path, format="PNG"))
    assert made[1].tolist() == (values // 256).tolist()
    assert torch.equal(made[0], made[2])


def test_the_orientation_is_ignored(root):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    assert first_image(root, lambda path: picture((40, 30)).save(path, exif=exif)).shape == (3, 30, 40)


def cut_off(path):
    picture((200, 200)).save(path)
    path.write_bytes(path.read_bytes()[:1500])


def huge(path):
    """A PNG that says it has 50,000 x 50,000 pixels."""
    Image.new("L", (1, 1)).save(path, format="PNG")
    content = path.read_bytes()
    header = b"IHDR" + struct.pack(">II", 50_000, 50_000) + content[24:29]
    path.write_bytes(content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:])


@pytest.mark.parametrize(
    "damage",
    [cut_off, huge, lambda p: p.write_bytes(b""), lambda p: p.write_text("no image"), lambda p: p.write_bytes(b"\xff")],
    ids=["cut off", "huge", "empty", "text", "one byte"],
)
def test_a_damaged_file_is_named(root, damage):
    with pytest.raises(UnreadableError, match=rf"^cannot read the image \S+/{WNIDS[0]}_0\.JPEG; replace or remove it$"):
        first_image(root, damage)


def test_a_file_that_went_away_is_named(root):
    data = imagenet(root)
    (root / "train" / WNIDS[0] / f"{WNIDS[0]}_0.JPEG").unlink()
    with pytest.raises(UnreadableError, match=f"{WNIDS[0]}_0"):
        data.train.inputs[0]


def test_bits_that_flip_never_end_in_another_error(root):
    path = root / "train" / WNIDS[0] / f"{WNIDS[0]}_0.JPEG"
    whole, random = path.read_bytes(), np.random.default_rng(0)
    inputs = imagenet(root).train.inputs
    for _ in range(150):
        spoilt = bytearray(whole)
        for place in random.integers(0, len(whole), 8):
            spoilt[place] = random.integers(256)
        path.write_bytes(spoilt)
        with contextlib.suppress(UnreadableError):
            assert inputs[0].dtype == torch.uint8


# --- jellyplus data check ----------------------------------------------------------------------------------------


def test_check_counts_classes_and_names_the_damaged(root, capsys):
    cut_off(root / "train" / WNIDS[1] / f"{WNIDS[1]}_1.JPEG")
    assert main(["data", "check", str(root)]) == 1
    out = capsys.readouterr().out
    assert "8 train (published: 1,281,167), 6 val (published: 50,000)" in out
    cells = {
        line.split("|")[1].strip(): line.replace(" ", "").split("|")[2:4] for line in out.splitlines() if "|" in line
    }
    assert [cells[wnid] for wnid in WNIDS] == [["3", "2"], ["2", "2"], ["3", "2"]]
    assert cells["published"] == ["", "50"]  # classes of training differ in size
    assert re.search(rf"^unreadable: 1\ncannot read the image \S+/{WNIDS[1]}_1\.JPEG", out, re.MULTILINE)


def test_check_finds_no_imagenet_where_classes_have_other_names(root):
    assert survey(root) is not None
    for split in ("train", "val"):
        for wnid in WNIDS:
            (root / split / wnid).rename(root / split / f"class {wnid}")
    assert survey(root) is None


# --- Presentation ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("resize", "side"), [(28, 24), (None, 24), (24, 24), (36, 17), (None, 40)])
def test_evaluation_is_torchvisions_chain(root, resize, side):
    data = imagenet(root, resize=resize, side=side)
    shown = EvaluationSplit(data.test, normalisation(data))
    scaled = [v2.Resize(resize)] if resize else []
    tail = [v2.CenterCrop(side), v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    for index, (path, label) in enumerate(torchvision.datasets.ImageFolder(root / "val").samples):
        made, its_label, its_index = shown[index]
        with Image.open(path) as image:
            expected = v2.Compose([*scaled, *tail])(image.convert("RGB"))
        assert (made.shape, made.dtype) == ((3, side, side), torch.float32)
        assert (its_label, its_index) == (label, index)
        assert (made - expected).abs().max() <= 2.01 / 255 / min(STD)  # Pillow rounds between rows and columns
        assert (made - expected).abs().mean() < 0.6 / 255 / min(STD)


def test_training_is_a_crop_resized_and_flipped(root):
    data = imagenet(root)
    augment = pickle.loads(pickle.dumps(augmentation(["resized_crop", "flip"], data, 0, 0, 0)))
    image = data.train.inputs[3]
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in (MEAN, STD))
    flips = 0
    for seed in range(20):
        torch.manual_seed(seed)
        drawn = v2.RandomResizedCrop(24).make_params([image])
        top, left, height, width = (drawn[key] for key in ("top", "left", "height", "width"))
        assert 0.05 < height * width / image[0].numel() <= 1
        assert 0.7 < width / height < 1.4
        part = image[None, :, top : top + height, left : left + width].float()
        expected = torch.nn.functional.interpolate(part, size=(24, 24), mode="bilinear", antialias=True)[0]
        torch.manual_seed(seed)
        shown = (augment(image) * std + mean) * 255
        mirrored = (shown - expected.flip(-1)).abs().max() < (shown - expected).abs().max()
        flips += int(mirrored)
        assert (shown - (expected.flip(-1) if mirrored else expected)).abs().max() < 1.5
    assert 4 < flips < 16


@pytest.mark.parametrize("names", [[], ["flip"], ["flip", "resized_crop"], ["resized_crop", "resized_crop"]])
def test_images_of_many_sizes_need_the_resized_crop_first(root, names):
    with pytest.raises(InputError, match=r"imagenet, whose images have many sizes; make resized_crop its first$"):
        augmentation(names, imagenet(root), 0, 0, 0)


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("workers", [0, 1])
def test_an_epoch_with_a_damaged_file(root, skip, workers):
    cut_off(root / "train" / WNIDS[1] / f"{WNIDS[1]}_1.JPEG")  # the fifth
    data = imagenet(root, unreadable="skip" if skip else "stop")
    assert data.skip_unreadable is skip
    train = AugmentedSplit(data.train, augmentation(["resized_crop", "flip"], data, 0, 0, 0), seed=0)
    together = partial(collate, skip_unreadable=skip)
    order = [(0, index) for index in range(9)]
    batches = DataLoader(train, 3, sampler=order, collate_fn=together, num_workers=workers)
    if skip:
        ids = [ids.tolist() for inputs, labels, ids in batches]
        assert ids == [[0, 1, 2], [3, 5], [6, 7, 8]]
    else:
        with pytest.raises(
            UnreadableError, match=rf"^cannot read the image \S+{WNIDS[1]}_1\.JPEG; replace or remove it$"
        ):
            list(batches)
