"""Readers of files against mutated files: each gives a value or one sentence, soon and in little memory.

Valid files are damaged (bytes replaced, cut, doubled, put in) and, where they have a structure, changed in it. CI runs
some hundred examples a reader; ``python tests/test_fuzz.py MINUTES`` runs as long as asked and reports.
"""

import copy
import dataclasses
import functools
import io
import json
import random
import struct
import sys
import tempfile
import time
import tracemalloc
import zlib
from collections import Counter
from pathlib import Path
from types import CodeType, SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from jellyplus import _strict, datasets
from jellyplus._errors import InputError
from jellyplus.datasets import aedat, event_camera, images
from jellyplus.reproduction import evidence as evidence_module
from jellyplus.reproduction import store as store_module
from jellyplus.reproduction.store import Store
from jellyplus.training import recipe as recipe_module
from jellyplus.training import recipe_files, unpickling
from jellyplus.training import state as state_module
from jellyplus.training import train as train_module
from jellyplus.training.checkpoint import load_checkpoint, save_checkpoint
from jellyplus.training.classifier import Classifier
from jellyplus.training.network import build_network
from jellyplus.training.recipe import recipe_key
from jellyplus.training.recipe_files import load_run, written

REPOSITORY = Path(__file__).parents[1]
EXAMPLES = 400  # of a reader, but for those that take longer
FEWER = {"event_camera": 60, "state": 200}
SECONDS = 5  # of the processor; an example takes milliseconds
MEMORY = 64 * 2**20  # bytes beside a hundred times the file

# --- Valid files ---------------------------------------------------------------------------------------------------


def aedat2(draw):
    words = (draw.randrange(draw.choice((2**16, 2**32))) if k % 2 == 0 else 1000 * k for k in range(40))
    chip = draw.choice((b"", b"", b"# AEChip: a.DVS128\r\n", b"# AEChip: a.DAVIS240C\r\n"))
    return b"#!AER-DAT2.0\r\n# made by a test\r\n" + chip + struct.pack(">40I", *words)


def aedat3(draw):
    source = draw.choice((b"", b"#Source 1: DVS128\r\n", b"#Source 1: DVS128\r\n", b"#Source 1: DAVIS240C\r\n"))
    content = b"#!AER-DAT3.1\r\n#Format: RAW\r\n" + source + b"#!END-HEADER\r\n"
    for kind in (0, 1, 1):
        n = draw.randrange(1, 5)
        content += struct.pack("<2H6I", kind, 0, 8, 4, 0, n, n, n)
        for k in range(n):
            content += struct.pack("<2I", draw.randrange(128) << 17 | draw.randrange(128) << 2 | 3, k)
    return content


SIDE = 8  # pixels: small, so that damage hits heads as often as pixels
FORMS = {
    "PNG": ("1", "L", "P", "RGB", "RGBA", "LA", "I;16"),
    "JPEG": ("L", "RGB", "CMYK"),
    "BMP": ("1", "L", "P", "RGB"),
    "TIFF": ("L", "P", "RGB", "CMYK", "I;16", "I", "F"),
    "PPM": ("L", "RGB", "I"),
    "WEBP": ("RGB", "RGBA"),
    "GIF": ("P",),
}
GREY = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE), dtype=np.uint8)
WIDE = {"I;16": np.uint16, "I": np.int32, "F": np.float32}


def image(form, mode, grey=GREY):
    content = io.BytesIO()
    pixels = Image.fromarray(grey.astype(WIDE[mode]) * 257 if mode in WIDE else grey)
    (pixels if mode in WIDE else pixels.convert(mode)).save(content, form)
    return content.getvalue()


IMAGES = [image(form, mode) for form, modes in FORMS.items() for mode in modes]
IMAGES += [image(form, "L", 0 * GREY) for form in ("PNG", "BMP", "JPEG")]  # without an event

RECIPES = {
    (name := f"{path.parent.name}/{path.stem}"): yaml.safe_dump(written(name, REPOSITORY / "recipes")).encode()
    for path in sorted((REPOSITORY / "recipes").glob("*/*.yaml"))
    if path.stem != "profiles"
}
_LEFT_OUT = {  # recipes that have what others may leave out
    "public/code": load_run("inflor/cifar10_resnet19_t4", "official", REPOSITORY / "recipes"),
    "micro/batches": load_run(
        "dspike/cifar10_ann", "paper", REPOSITORY / "recipes", {"data": {"micro_batch": 64, "examples": 256}}
    ),
}
for name, run in _LEFT_OUT.items():
    RECIPES[name] = json.dumps({k: v for k, v in run.resolved.items() if k != "parent"}).encode()
_STATED = yaml.safe_load(RECIPES["compare/cifar10_resnet20_t2"])  # with the defaults of what others leave out
_STATED |= {"output_loss": {"name": "cross_entropy", "parameters": {}}}
_STATED["model"]["decoding_initialisation"] = 0.01
RECIPES["stated/default"] = json.dumps(_STATED).encode()
VALUES = [yaml.safe_load(content) for content in RECIPES.values()]
PROFILES = b'embedded:\n  "*":\n    model: {width: 4}\n  "r*":\n    data: {augmentation: [], events: null}\npaper: {}\n'
RECORD = {
    "schema": 3, "key": recipe_key({"a": 1}), "recipe_name": "a/b", "profile": "paper", "seed": 0, "code": "c" * 64,
    "recipe": {"a": 1}, "parent": None, "commit": "unknown", "dirty": None, "versions": {"torch": "2"},
    "device": "cpu", "backend": "cpp", "dataset": {"name": "a", "train_examples": 1, "test_examples": 1},
    "parameters": 1, "operations": {"macs_per_time_step": 1, "spike_rate": 0.5, "additions": 1.0,
    "multiplications": 1.0, "energy_uj": 1.0, "examples": 1, "convention": "c"}, "accuracy_last": 1.0,
    "accuracy_best": 1.0, "best_epoch": 0, "epochs_completed": 1, "epochs_planned": 1, "wall_time_s": 1.0,
    "search_time_s": 0.0, "left_over": ["a"], "history": [{"epoch": 0, "loss": 0.5}],
}  # fmt: skip

# --- Mutations -----------------------------------------------------------------------------------------------------

ODD = (
    None, True, False, -1, 0, 1, 2, 3, 0.5, 2**63, 10**30, 1e300, -0.1, float("nan"), float("inf"), "", "x", "\0",
    "a\nb", "\ud800", "1e-3", "1e999", [], {}, [[]], [1, 2], [0], {"a": 1}, {"": None}, "srif", "lif", "evaf", "dspike",
    "rectangular", "step", "cosine", "bn", "tdbn", "cpp", "bf16-mixed", "p/r", "resnet19", "plain", "toy_cnn", "conv",
)  # fmt: skip
TEXTS = (
    b"", b"\0", b"\xff", b"[" * 3000, b"{" * 3000, b"9" * 5000, b"&a [*a]", b"- " * 500, b"!!bool x", b"2024-13-45",
    b"<<: {a: 1}", b"a: 1\na: 1\n", b"#" * 2**20, b"\x85", b"? [a]\n: b\n", b"!!python/name:os.system", b"1e400",
)  # fmt: skip


def damaged(draw, content):
    """One to three of: bytes replaced, cut off, removed, doubled, odd ones put in."""
    content = bytearray(content)
    for _ in range(draw.randint(1, 3)):
        at, end = sorted(draw.randrange(len(content) + 1) for _ in range(2))
        change = draw.randrange(6)
        if change == 0:
            content[at : at + 1] = bytes([draw.randrange(256)])
        elif change == 1:
            del content[at:]
        elif change == 2:
            del content[at : at + draw.randrange(1, 16)]
        elif change == 3:
            content[at:at] = content[at:end]
        elif change == 4:
            content[at:at] = draw.choice(TEXTS)
        else:
            content[at : at + 4] = struct.pack("<I", draw.choice((0, 1, 2**31, 2**32 - 1, draw.randrange(2**32))))
    return bytes(content)


def with_checksums(content):
    """A PNG whose chunks have the right ones again, as far as it has chunks: damage reaches what reads them."""
    at = 8
    while at + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, at)
        end = at + 8 + length
        checksum = struct.pack(">I", zlib.crc32(content[at + 4 : end]))
        content = content[:end] + checksum + content[end + 4 :]
        at = end + 4
    return content


def restructured(draw, values, others):
    """One to three values replaced, removed, added or taken from another file of the kind."""
    values = copy.deepcopy(values)
    for _ in range(draw.randint(1, 3)):
        holder, other = values, draw.choice(others)
        while True:
            key = draw.choice(sorted(holder, key=str) if isinstance(holder, dict) else range(len(holder)))
            other = other.get(key) if isinstance(holder, dict) and isinstance(other, dict) else None
            if not isinstance(holder[key], dict | list) or not holder[key] or draw.random() < 0.3:
                break
            holder = holder[key]
        change = draw.randrange(5)
        if change == 0:
            del holder[key]
        elif change == 1 and isinstance(holder, dict):
            holder[draw.choice(("odd", 3, None, "a\nb"))] = draw.choice(ODD)
        elif change == 2:
            holder[key] = draw.choice(ODD)
        else:
            holder[key] = copy.deepcopy(other) if change == 3 else draw.choice(ODD)
        if not values:
            break
    return values


# --- Readers -------------------------------------------------------------------------------------------------------


def read_aedat(read, make):
    def attempt(draw, folder):
        content = make(draw)
        content = content if draw.random() < 0.05 else damaged(draw, content)
        path = folder / "a.aedat"
        if draw.random() < 0.98:
            path.write_bytes(content)
        events = read(path)
        assert {len(column) for column in events} <= {len(events.t)}
        assert 0 < len(events.t) <= len(content) / 8
        assert max(events.x.max(), events.y.max()) < 128
        assert set(events.p.tolist()) <= {0, 1}

    return attempt


def damaged_image(draw, folder):
    content = draw.choice(IMAGES)
    if draw.random() < 0.95:
        content = damaged(draw, content)
    if content.startswith(b"\x89PNG") and draw.random() < 0.7:
        content = with_checksums(content)
    path = folder / "b.png"
    if draw.random() < 0.98:
        path.write_bytes(content)
    return path


def read_image(draw, folder):
    path = damaged_image(draw, folder)
    mode, side = draw.choice(("RGB", "L")), draw.choice((None, SIDE, SIDE, SIDE + 1))
    pixels = images.read_image(path, mode, side)
    assert (pixels.dtype, pixels.ndim) == (np.uint8, {"RGB": 3, "L": 2}[mode])
    assert pixels.size > 0
    assert side is None or pixels.shape[:2] == (side, side)


def read_recording_of_image(draw, folder):
    assert event_camera._record(damaged_image(draw, folder)).x.max() < 128


def read_recipe(draw, folder):
    name, index = draw.choice(list(RECIPES)), draw.randrange(len(VALUES))
    content, profiles = RECIPES[name], PROFILES
    kind = draw.random()
    if kind < 0.3:
        content = damaged(draw, content)
    elif kind < 0.8:
        content = yaml.safe_dump(restructured(draw, VALUES[index], VALUES)).encode()
    elif kind < 0.9:
        profiles = damaged(draw, profiles)
    else:
        changed = restructured(draw, yaml.safe_load(PROFILES), VALUES)
        profiles = json.dumps(changed).encode()
    paper = folder / "p"
    paper.mkdir(exist_ok=True)
    if draw.random() < 0.2:
        (paper / "b.yaml").write_bytes(content)
        base = draw.choice(["b", "b", "b", "r", "nobody", "../p/b", 3])
        content = json.dumps({"base": base, "model": draw.choice(VALUES)["model"]}).encode()
    (paper / "r.yaml").write_bytes(content)
    (paper / "profiles.yaml").write_bytes(profiles)
    run = load_run("p/r", "embedded", folder)
    assert len(run.key) == 64
    assert run.plugins == ()


def read_evidence(draw, folder):
    content = json.dumps(RECORD).encode()
    if draw.random() < 0.4:
        content = damaged(draw, content)
    elif draw.random() < 0.9:
        content = json.dumps(restructured(draw, RECORD, [RECORD])).encode()
    if draw.random() < 0.01:
        content += b" " * 2**24
    store = Store(folder)
    path = store.checkpoint(RECORD["key"], 0, RECORD["code"]).with_suffix(".json")
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    assert len(store.runs(RECORD["key"])) <= 1


@functools.cache
def saved():
    """The state that a run of two epochs leaves, its bytes, and what a run needs to go on from it."""
    recipe = load_run("dspike/mnist_toy_rectangular", "embedded", REPOSITORY / "recipes").recipe
    data = datasets.load(recipe.data.dataset)
    few = {name: getattr(data, name).at(torch.arange(40)) for name in ("train", "test")}
    schedule = dataclasses.replace(recipe.schedule, epochs=2)
    recipe = dataclasses.replace(recipe, schedule=schedule, data=dataclasses.replace(recipe.data, batch_size=20))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "state")
        train_module.train(recipe, dataclasses.replace(data, **few), 0, "cpu", path, None, "")
        content = load_checkpoint(path)
        keep = train_module.KeepLast(path, content["origin"])
        trainer = train_module._trainer(recipe, "cpu", [keep])
        return content, path.read_bytes(), trainer, Classifier(build_network(recipe), recipe, 0)


TENSORS = (torch.zeros(1), torch.full((4,), float("nan")), torch.zeros(0, dtype=torch.int64), ())


def read_state(draw, folder):
    content, raw, trainer, classifier = saved()
    path = folder / "state"
    if draw.random() < 0.3:
        path.write_bytes(damaged(draw, raw))
    else:
        other = {key: draw.choice(TENSORS) for key in content} if draw.random() < 0.3 else content
        save_checkpoint(content if draw.random() < 0.05 else restructured(draw, content, [other]), path)
    assert train_module._state(path, trainer, classifier, content["origin"], batches=2) == path


def code_of(module, names=None):
    """The lines of a module's functions, as {file: lines}; of some functions where ``names`` has them."""
    path, lines = module.__file__, set()

    def walk(code, within):
        for inner in code.co_consts:
            if isinstance(inner, CodeType):
                counted = within or names is None or inner.co_qualname in names
                if counted and inner.co_flags & 3:  # a function's, not a class's
                    lines.update(line for *_, line in inner.co_lines() if line and line > inner.co_firstlineno)
                walk(inner, counted)

    walk(compile(Path(path).read_text(), path, "exec"), False)
    return {path: lines}


STORE = {"Store.runs", "Store.files", "Store.folder", "Store.path", "Store.read", "Store.__init__", "_read"}
STORE |= {"_damaged", "_of_schema"}
EVIDENCE = {"Evidence.__post_init__", "Evidence.stem"}
READERS = {
    "aedat2": (read_aedat(aedat.read_aedat2, aedat2), code_of(aedat, {"read_aedat2", "_content"})),
    "aedat3": (read_aedat(aedat.read_aedat3, aedat3), code_of(aedat, {"read_aedat3", "_polarity_packets", "_content"})),
    "image": (read_image, code_of(images)),
    "event_camera": (read_recording_of_image, code_of(event_camera, {"_record"})),
    "recipe": (read_recipe, code_of(_strict) | code_of(recipe_module) | code_of(recipe_files)),
    "evidence": (
        read_evidence,
        code_of(store_module, STORE) | code_of(evidence_module, {"Evidence.__post_init__", "Evidence.stem"}),
    ),
    "state": (read_state, code_of(state_module) | code_of(unpickling)),
}


class Watch:
    """Runs examples of one reader and keeps what they reached, how long they took and what they allocated."""

    def __init__(self, name):
        self.attempt, self.lines = READERS[name]
        self.reached = {path: set() for path in self.lines}
        self.ended = Counter()
        self.slowest = self.largest = 0.0

    def run(self, seed):
        with tempfile.TemporaryDirectory() as folder:
            began, sentence = time.process_time(), ""
            if weighed := seed % 10 == 0:  # it takes three times as long
                tracemalloc.start()
            before = sys.gettrace()
            sys.settrace(self._called)
            try:
                self.attempt(random.Random(seed), Path(folder))
                self.ended["a value"] += 1
            except InputError as error:
                sentence = str(error)
                self.ended["InputError"] += 1
            finally:
                sys.settrace(before)
                peak = tracemalloc.get_traced_memory()[1] if weighed else 0
                tracemalloc.stop()
            size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
            self.slowest = max(self.slowest, time.process_time() - began)
            self.largest = max(self.largest, peak - 100 * size)
        assert sentence.isprintable()
        assert self.slowest < SECONDS, f"{self.slowest} s"
        assert self.largest < MEMORY, f"{self.largest} bytes"

    def _called(self, frame, event, argument):
        if (reached := self.reached.get(frame.f_code.co_filename)) is None:
            return None

        def line(frame, event, argument):
            if event == "line":
                reached.add(frame.f_lineno)
            return line

        return line

    @property
    def missed(self):
        return {Path(path).name: sorted(lines - self.reached[path]) for path, lines in self.lines.items()}

    @property
    def coverage(self):
        total = sum(map(len, self.lines.values()))
        return 1 - sum(map(len, self.missed.values())) / total


@pytest.mark.filterwarnings("ignore:::PIL")  # on metadata, which are not read here
@pytest.mark.parametrize("name", READERS)
def test_a_mutated_file_is_a_value_or_one_sentence(name):
    watch = Watch(name)
    for seed in range(FEWER.get(name, EXAMPLES)):
        watch.run(seed)
    assert set(watch.ended) == {"a value", "InputError"}
    assert watch.coverage >= 0.9, watch.missed


def main(minutes):
    """Every reader in turn until the time is over; a failure's seed stands in its traceback's last line."""
    watches = SimpleNamespace(**{name: Watch(name) for name in READERS})
    seed, end = 2**33, time.monotonic() + 60 * minutes
    while time.monotonic() < end:
        for name, watch in vars(watches).items():
            try:
                watch.run(seed)
            except Exception as error:
                raise SystemExit(f"{name}, seed {seed}: {type(error).__name__}: {error}") from error
        seed += 1
    for name, watch in vars(watches).items():
        print(f"{name}: {dict(watch.ended)}, {watch.coverage:.1%} of lines, slowest {watch.slowest:.2f} s,", end=" ")
        print(f"{watch.largest / 2**20:.1f} MiB beside 100 times the file; not reached: {watch.missed}")


if __name__ == "__main__":
    main(float(sys.argv[1]))
