"""What a lent GPU is worth in some minutes: whether the kernels are right, how fast they are, then rows of tables.

    python benchmarks/gpu.py --minutes 9 --out FOLDER [--sections card right fast] [--peers FOLDER] [--data-root DATA]
    python benchmarks/gpu.py --dry-run --out FOLDER

Sections run in this order, each in its box of seconds, the last in all that is left:

    card      20 s   versions, card, doctor
    right    180 s   layouts, streams, CUDA graphs, a changed temperature; every method trains; the parity matrix
    fast     150 s   node against its peers, training step against ReLU, profile, loader, training loop
    evidence         tables of small networks, many runs side by side, then rows (gpu_sections/rows.py)

Every part of a section is a process of its own that is killed when its box is over: a part that hangs or crashes costs
its box and nothing else. What is measured is appended to FOLDER/gpu.jsonl as it comes; FOLDER/gpu.md, written again
after every part, is all there is in it, so that calls into one FOLDER add up; "--sections" with none behind it only
writes it again. FOLDER/gpu_evidence.zip has evidence and views, gpu_weights.zip the weights of published runs,
FOLDER/gpu.log all output. How a
machine without internet is given what it needs: gpu_day.sh.

--dry-run calls every part's own code on the CPU, with tiny sizes, where the CUDA kernels' text runs through g++
(tools/cuda_on_cpu); it writes dry_run.* and no number in it means anything.

--peers holds folders with the packages of the peers that cannot be installed beside ours:

    pip install --no-deps --target PEERS/spikingjelly2 spikingjelly==2.0.0 loguru==0.7.3
    pip install --no-deps --target PEERS/snntorch snntorch==1.0.0
"""

import argparse
import ctypes
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

from gpu_sections.boxes import Part, Section, box, run
from gpu_sections.job import Job, append, named, read
from gpu_sections.report import markdown

HERE = Path(__file__).parent
OURS = ["jellyplus cupy", "jellyplus cupy, Rectangular", "jellyplus torch", "ReLU"]
TRITON = {"SJ_LIF_CUDA_IMPLEMENTATION": "triton"}  # which has no half precision
_CASES = tuple(f"right.{case}" for case in ("layouts", "launches", "temperature", "graph", "compressed", "large"))
_SPIKINGJELLY_2 = {"names": ["SpikingJelly 2.0.0"]}
SECTIONS = (
    Section("card", 20, (Part(("card.versions", "card.report"), 20),)),
    Section(
        "right",
        180,
        (
            Part(_CASES, 40),
            Part(("right_training.methods",), 90),
            Part(("right.matrix",), 90),
        ),
    ),
    Section(
        "fast",
        150,
        (
            Part(("fast_node.sides",), 40, {"names": OURS}),
            Part(("fast_step.steps",), 45),
            Part(("fast_node.sides",), 20, {"names": ["SpikingJelly 0.0.0.0.14 cupy"]}),
            Part(("fast_node.sides",), 20, _SPIKINGJELLY_2 | {"dtypes": ["float"]}, "spikingjelly2", TRITON),
            Part(("fast_node.sides",), 20, _SPIKINGJELLY_2 | {"dtypes": ["half"]}, "spikingjelly2"),
            Part(("fast_node.sides",), 20, {"names": ["snnTorch Leaky"]}, "snntorch"),
            Part(("fast_training.loader",), 30),
            Part(("fast_training.loops",), 60),
        ),
    ),
    Section("evidence", None, (Part(("evidence.make",), 3600),)),
)
CLOSING = 3.0  # seconds for the last words


def main() -> int:
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what runs is killed too
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="gpu", ignore_cleanup_errors=True) as scratch:
        _Command(options, scratch).run(time.monotonic() + 60 * options.minutes - CLOSING)
    print(named(options.out, options.dry_run, ".md").read_text())
    return 0


class _Command:
    """The sections that are asked for, and what is written down of them."""

    def __init__(self, options: argparse.Namespace, scratch: str):
        self.options = options
        self.scratch = scratch
        self.records, self.log, self.readable = (
            named(options.out.resolve(), options.dry_run, suffix) for suffix in (".jsonl", ".log", ".md")
        )

    def run(self, ends_at: float) -> None:
        sections = [section for section in SECTIONS if section.name in self.options.sections]
        if sections:
            begun = time.strftime("%F %T UTC", time.gmtime())
            self.write(command=f"python benchmarks/gpu.py {_shown(self.options)}", begun=begun)
        run(sections, self.start, self.record, ends_at)
        self.write()

    def start(self, section: Section, part: Part, seconds: float) -> int | str | None:
        if part.peer and not (self.options.peers and (self.options.peers / part.peer).is_dir()):
            return f"left out: no {part.peer} in --peers"
        command = [sys.executable, "-W", "ignore", "-m", "gpu_sections.child", self.job(section, part, seconds)]
        return box(command, _environment(part, self.options), seconds, self.log)

    def job(self, section: Section, part: Part, seconds: float) -> str:
        job = Job(
            section=section.name,
            functions=[f"gpu_sections.{name}" for name in part.functions],
            out=str(self.records.parent),
            scratch=self.scratch,
            ends_at=time.monotonic() + seconds,
            dry_run=self.options.dry_run,
            data_root=self.options.data_root,
            workers=self.options.workers,
            arguments=part.arguments,
        )
        return json.dumps(vars(job))

    def record(self, section: Section, part: Part, how: str, seconds: float) -> None:
        what = ", ".join([*part.functions, *part.arguments.get("names", ())])
        self.write(section=section.name, ended=what, how=how, seconds=seconds)
        print(f"{section.name}: {what}: {how}, {seconds:.1f} s", flush=True)

    def write(self, **record: object) -> None:
        """A record, if any, and the readable file: beside it first, so that it is whole whenever this process ends."""
        if record:
            append(self.records, {"dry_run": self.options.dry_run, **record})
        beside = self.readable.with_suffix(".new")
        beside.write_text(markdown(read(self.records)))
        beside.replace(self.readable)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=15, metavar="N", help="for everything; default: 15")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="what is measured")
    names = [section.name for section in SECTIONS]
    parser.add_argument("--sections", nargs="*", choices=names, default=names, help="default: all")
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes on the CPU: whether everything runs")
    parser.add_argument("--peers", type=Path, metavar="FOLDER", help="other packages; without it they are left out")
    parser.add_argument("--data-root", metavar="FOLDER", help="folder that holds the real data sets")
    parser.add_argument("--workers", type=int, default=max(1, min(15, (os.cpu_count() or 1) - 1)), help="load data")
    options = parser.parse_args()
    if not options.dry_run and options.sections and (missing := _no_driver()):
        parser.error(f"there is no NVIDIA driver here ({missing}): --dry-run runs without one")
    return options


def _no_driver() -> str | None:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        return str(error)
    return None


def _shown(options: argparse.Namespace) -> str:
    """Without the paths, which are this machine's."""
    shown = ["--dry-run"] if options.dry_run else ["--minutes", f"{options.minutes:g}"]
    return " ".join([*shown, "--sections", *options.sections, "--workers", str(options.workers)])


def _environment(part: Part, options: argparse.Namespace) -> dict[str, str]:
    peer = [str((options.peers / part.peer).resolve())] if part.peer else []
    path = [*peer, str(HERE), str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | part.environment | {"PYTHONPATH": os.pathsep.join(path), "PYTHONUNBUFFERED": "1"}


if __name__ == "__main__":
    sys.exit(main())
