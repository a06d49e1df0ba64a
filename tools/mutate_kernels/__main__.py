"""The command: see the package. The exit status is 1 where there is anything to complain of."""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

from jellyplus._files import write_atomically

sys.path.insert(0, str(Path(__file__).parents[1]))
import mutate_kernels
from mutate_kernels import report, run
from mutate_kernels.digest import digest
from mutate_kernels.mutants import mutants
from mutate_kernels.survivors import complaints

RECORDED = Path(__file__).parents[2] / "benchmarks" / "mutations.md"


def main(arguments: list[str] | None = None) -> int:
    """Run all mutants, but with ``--check`` none where the recorded report is of today; returns the exit status."""
    options = _options(arguments)
    recorded = RECORDED.read_text() if options.check else ""
    if options.check and f"`{digest()}`" in recorded:
        print(f"{RECORDED.name} is of today's kernels and of today's checks: nothing changed since")
        return 0
    if why := run.missing():
        sys.exit(why)
    found = run.outcomes(mutants(), options.jobs, _progress(len(mutants())))
    text, wrong = report.markdown(mutants(), found), complaints(mutants(), found)
    if options.output:
        write_atomically(options.output, text.encode())
    elif not options.check:
        print(text)
    elif text != recorded:
        wrong.append(f"{RECORDED.name} is not what was found now: run this with --output to record it")
    print(*wrong, sep="\n", end="\n" if wrong else "", file=sys.stderr)
    return 1 if wrong else 0


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="mutate_kernels", description=mutate_kernels.__doc__.splitlines()[0])
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--output", help="a Markdown file; without it the report is printed")
    what.add_argument("--check", action="store_true", help="fail unless benchmarks/mutations.md still holds")
    parser.add_argument("--jobs", type=int, default=2, help="processes (default: %(default)s)")
    return parser.parse_args(arguments)


def _progress(total: int) -> Callable[[int], None]:
    begin = time.monotonic()

    def show(done: int) -> None:
        if done % 100 == 0 or done == total:
            past = time.monotonic() - begin
            left = past / done * (total - done)
            print(f"{done} of {total} mutants in {past:.0f} s, about {left:.0f} s left", file=sys.stderr, flush=True)

    return show


if __name__ == "__main__":
    sys.exit(main())
