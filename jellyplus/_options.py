"""The options of every command that makes runs. It imports nothing, so that a mistyped option answers at once."""

import argparse
from pathlib import Path

__all__ = [
    "LOGGERS",
    "NOT_OF_FIGURES",
    "PROFILES",
    "Help",
    "add_plugin_option",
    "add_quiet",
    "add_run_options",
    "add_table_options",
    "count",
    "epochs",
    "examples",
]

PROFILES = ("smoke", "embedded", "small", "gpu", "official", "paper")
LOGGERS = ("csv", "tensorboard", "wandb", "mlflow")

#: Why a figure has none of these.
NOT_OF_FIGURES = {"gpu": "a figure has its own epochs", "official": "the public code makes no figure"}


class Help(argparse.HelpFormatter):
    """Every option with its default, where it has one that its help does not tell; examples as they are written."""

    def _get_help_string(self, action: argparse.Action) -> str:
        said, default = action.help or "", action.default
        if default is None or default is False or default == argparse.SUPPRESS or "default" in said:
            return said
        words = " ".join(map(str, default)) if isinstance(default, list) else default
        return f"{said} (default: {words})"

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if text.startswith(_EXAMPLES) else super()._fill_text(text, width, indent)


_EXAMPLES = "examples:\n"


def examples(*lines: str) -> str:
    """The end of a command's help."""
    return _EXAMPLES + "\n".join(f"  {line}" for line in lines)


def add_quiet(parser: argparse.ArgumentParser) -> None:
    """Add what turns progress bars off."""
    parser.add_argument("--quiet", action="store_true", help="show no progress bars; results are printed all the same")


def add_run_options(parser: argparse.ArgumentParser, default: str = "embedded") -> None:
    """Add what decides how runs are made; ``default`` is in words what there is without ``--profile``."""
    add_quiet(parser)
    parser.add_argument(
        "--profile",
        choices=PROFILES,
        help="smoke: a few steps on a few images; embedded: stand-in data, narrow nets; small: real data, narrow nets; "
        "gpu: as printed but for the number of epochs; official: as in the authors' public code (imloss, inflor); "
        f"paper: as printed (default: {default})",
    )
    parser.add_argument("--data-root", metavar="FOLDER", help="folder that holds the real data sets, e.g. cifar10/")
    parser.add_argument("--seeds", nargs="+", type=_seed, metavar="SEED", default=[0], help="one run for each")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: a GPU if there is one")
    parser.add_argument(
        "--workers", type=count, metavar="N", default=0, help="processes that load data; they decide no number"
    )
    parser.add_argument(
        "--threads",
        type=_positive,
        metavar="N",
        default=1,
        help="of each run on a CPU; their number decides the last bits of its numbers",
    )
    parser.add_argument(
        "--logger",
        choices=LOGGERS,
        help="each epoch's numbers also go to this one of Lightning's loggers, in the folder logs of --out; "
        "default: to none",
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", default=Path("results"), help="evidence and tables")
    add_plugin_option(parser)


def add_plugin_option(parser: argparse.ArgumentParser) -> None:
    """Add what brings parts from outside the package."""
    parser.add_argument(
        "--plugin",
        type=Path,
        action="append",
        metavar="FILE",
        default=[],
        help="Python that registers parts for recipes to name; it is executed, so give only files that you trust",
    )


def add_table_options(parser: argparse.ArgumentParser) -> None:
    """Add what every script in ``reproductions/`` has beside it."""
    parser.add_argument(
        "--jobs",
        type=_positive,
        metavar="N",
        help="runs that are made at a time, each in a process of its own; default: on a CPU as many as cores and "
        "memory allow, on a GPU one",
    )
    parser.add_argument(
        "--shard",
        type=_shard,
        metavar="I/N",
        default="1/1",
        help="only the I-th of N parts of the runs, for job arrays over one --out",
    )
    parser.add_argument("--render", action="store_true", help="write the views from the evidence there is; no training")


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:  # argparse would name the function that reads it
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None


def count(text: str) -> int:
    """Read a number of processes or threads."""
    value = _whole(text)
    if not 0 <= value <= 1024:
        raise argparse.ArgumentTypeError(f"{text} processes or threads are not possible; give 0 to 1024")
    return value


def epochs(text: str) -> int:
    """Read a number of epochs."""
    if (value := _whole(text)) < 1:
        raise argparse.ArgumentTypeError(f"{value} epochs make no run; give 1 or more")
    return value


def _positive(text: str) -> int:
    if not (value := count(text)):
        raise argparse.ArgumentTypeError("0 processes or threads make no run; give 1 or more")
    return value


def _shard(text: str) -> tuple[int, int]:
    number, _, shards = text.partition("/")
    if not (number.isdecimal() and shards.isdecimal() and 1 <= int(number) <= int(shards)):
        raise argparse.ArgumentTypeError(f"{text} is not one of several parts; give 1/4 for the first of four")
    return int(number), int(shards)


def _seed(text: str) -> int:
    value = _whole(text)
    if not 0 <= value < 2**63:
        raise argparse.ArgumentTypeError(f"{text} is not a seed; seeds are 0 to 2^63 - 1")
    return value
