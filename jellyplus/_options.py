"""The options of every command that makes runs. It imports nothing, so that a mistyped option answers at once."""

import argparse
from pathlib import Path

__all__ = ["PROFILES", "add_run_options", "count"]

PROFILES = ("smoke", "embedded", "small", "paper")


def add_run_options(parser: argparse.ArgumentParser, profile: str) -> None:
    """Add what decides how runs are made; ``profile`` is the default one."""
    parser.add_argument(
        "--profile",
        choices=PROFILES,
        default=profile,
        help="smoke: a few steps on a few images; embedded: stand-in data, narrow nets; small: real data, narrow nets; "
        "paper: as printed",
    )
    parser.add_argument("--data-root", metavar="FOLDER", help="folder that holds the real data sets, e.g. cifar10/")
    parser.add_argument("--seeds", nargs="+", type=_seed, metavar="SEED", default=[0], help="one run for each")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: a GPU if there is one")
    parser.add_argument(
        "--workers", type=count, metavar="N", default=0, help="processes that load data; they decide no number"
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", default=Path("results"), help="evidence and tables")


def count(text: str) -> int:
    """Read a number of processes or threads."""
    value = int(text)
    if not 0 <= value <= 1024:
        raise argparse.ArgumentTypeError(f"{text} processes are not possible; give 0 to 1024")
    return value


def _seed(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**63:
        raise argparse.ArgumentTypeError(f"{text} is not a seed; seeds are 0 to 2^63 - 1")
    return value
