"""What a lent GPU is worth in some minutes: whether the kernels are right, how fast they are, then rows of tables.

    python benchmarks/gpu.py --minutes 9 --out FOLDER [--sections card right fast] [--peers FOLDER] [--data-root DATA]
    python benchmarks/gpu.py --dry-run --out FOLDER

Sections run in this order, each in its box of seconds, the last in all that is left:

    card      20 s   versions, card, doctor
    right     90 s   the parity matrix through CuPy on the card; layouts, streams, CUDA graphs, a changed temperature
    fast     150 s   node against its peers, training step against ReLU, profile, loader, training loop
    evidence         the most valuable row that fits (gpu_sections/rows.py), by its ordinary script

Every part of a section is a process of its own that is killed when its box is over: a part that hangs or crashes costs
its box and nothing else. What is measured is appended to FOLDER/gpu.jsonl as it comes; FOLDER/gpu.md, written again
after every part, is all there is in it, so that calls into one FOLDER add up; "--sections" with none behind it only
writes it again. FOLDER/gpu_evidence.zip has evidence and views, FOLDER/gpu.log all output. How a
machine without internet is given what it needs: gpu_day.sh.

--dry-run calls every part's own code on the CPU, with tiny sizes, where the CUDA kernels' text runs through g++
(tests/neuron/cuda_on_cpu); it writes dry_run.* and no number in it means anything.

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
TRITON = {"SJ_LIF_CUDA_IMPLEMENTATION": "triton"}
SECTIONS = (
    Section("card", 20, (Part(("card.versions", "card.report"), 20),)),
    Section(
        "right",
        90,
        (
            Part(("right.layouts", "right.launches", "right.temperature", "right.graph", "right.large"), 40),
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
            Part(("fast_node.sides",), 30, {"names": ["SpikingJelly 2.0.0"]}, "spikingjelly2", TRITON),
            Part(("fast_training.loops", "fast_training.loader"), 80),
            Part(("fast_node.sides",), 20, {"names": ["snnTorch Leaky"]}, "snntorch"),
        ),
    ),
    Section("evidence", None, (Part(("fast_training.missing_loops", "evidence.make"), 3600),)),
)
CLOSING = 3.0  # seconds for the last words


def main() -> int:
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what runs is killed too
    ends_at = time.monotonic() + 60 * options.minutes - CLOSING
    options.out.mkdir(parents=True, exist_ok=True)
    records = named(options.out, options.dry_run, ".jsonl")
    sections = [section for section in SECTIONS if section.name in options.sections]
    if sections:
        command = " ".join(["python benchmarks/gpu.py", *_shown(options)])
        append(
            records,
            {"dry_run": options.dry_run, "command": command, "begun": time.strftime("%F %T UTC", time.gmtime())},
        )
    with tempfile.TemporaryDirectory(prefix="gpu", ignore_cleanup_errors=True) as scratch:

        def start(section: Section, part: Part, seconds: float) -> int | None:
            job = _job(section, part, seconds, options, scratch)
            log = named(options.out, options.dry_run, ".log")
            return box(
                [sys.executable, "-W", "ignore", "-m", "gpu_sections.child", job],
                _environment(part, options),
                seconds,
                log,
            )

        def record(section: Section, part: Part, how: str, seconds: float) -> None:
            what = ", ".join([*part.functions, *part.arguments.get("names", ())])
            ended = {"section": section.name, "dry_run": options.dry_run, "ended": what, "how": how, "seconds": seconds}
            append(records, ended)
            _write(options)
            print(f"{section.name}: {what}: {how}, {seconds:.1f} s", flush=True)

        for section in sections:
            for part in section.parts:
                if _is_missing(part, options.peers):
                    record(section, part, f"left out: no {part.peer} in --peers", 0.0)
        run([_of_those_there(section, options.peers) for section in sections], start, record, ends_at)
    _write(options)
    print(named(options.out, options.dry_run, ".md").read_text())
    return 0


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


def _shown(options: argparse.Namespace) -> list[str]:
    """Without the paths, which are this machine's."""
    shown = ["--dry-run"] if options.dry_run else ["--minutes", f"{options.minutes:g}"]
    return [*shown, "--sections", *options.sections, "--workers", str(options.workers)]


def _is_missing(part: Part, peers: Path | None) -> bool:
    return bool(part.peer) and not (peers and (peers / part.peer).is_dir())


def _of_those_there(section: Section, peers: Path | None) -> Section:
    return section._replace(parts=tuple(part for part in section.parts if not _is_missing(part, peers)))


def _job(section: Section, part: Part, seconds: float, options: argparse.Namespace, scratch: str) -> str:
    job = Job(
        section=section.name,
        functions=[f"gpu_sections.{name}" for name in part.functions],
        out=str(options.out.resolve()),
        scratch=scratch,
        ends_at=time.monotonic() + seconds,
        dry_run=options.dry_run,
        data_root=options.data_root,
        workers=options.workers,
        arguments=part.arguments,
    )
    return json.dumps(vars(job))


def _environment(part: Part, options: argparse.Namespace) -> dict[str, str]:
    peer = [str((options.peers / part.peer).resolve())] if part.peer else []
    path = [*peer, str(HERE), str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | part.environment | {"PYTHONPATH": os.pathsep.join(path), "PYTHONUNBUFFERED": "1"}


def _write(options: argparse.Namespace) -> None:
    """The readable part: beside it first, then renamed, so that it is whole whenever this process ends."""
    target = named(options.out, options.dry_run, ".md")
    beside = target.with_suffix(".md.new")
    beside.write_text(markdown(read(named(options.out, options.dry_run, ".jsonl"))))
    beside.replace(target)


if __name__ == "__main__":
    sys.exit(main())
