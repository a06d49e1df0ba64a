"""The command line: ``jellyplus`` or ``python -m jellyplus``."""

import argparse
import importlib
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from types import ModuleType

from jellyplus._command import answer
from jellyplus._errors import InputError
from jellyplus._options import PROFILES, add_plugin_option, add_run_options, count

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one sub-command.

    Args:
        arguments: the words after the program's name; None takes those of this process.

    Returns:
        The exit code: the sub-command's own, 2 for bad input, 130 when interrupted.
    """
    return answer(
        "jellyplus",
        lambda: _run(_parser().parse_args(arguments)),
        "train goes on from the last finished epoch when called again",
    )


def _run(options: argparse.Namespace) -> int:
    if "plugin" in options:
        _with_extra("jellyplus.registry", options.command).load(options.plugin)
    return options.run(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="jellyplus", description="Tools around the plugin for SpikingJelly.")
    parser.add_argument("--version", action="version", version=f"jellyplus {metadata.version('jellyplus')}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", required=True)
    summary = "print versions, the backends that work here, and what to do about those that do not"
    doctor = commands.add_parser("doctor", help=summary, description=f"{summary.capitalize()}.")
    doctor.set_defaults(run=_doctor)
    summary = "train the network of one recipe, and record what was measured"
    train = commands.add_parser("train", help=summary, description=f"{summary.capitalize()}.")
    train.add_argument("recipe", type=Path, help="a file like recipes/tdbn/cifar10_resnet19_t2.yaml")
    add_run_options(train, profile="paper")
    train.set_defaults(run=_train)
    _add_data_commands(commands)
    _add_render_command(commands)
    _add_report_command(commands)
    return parser


def _add_data_commands(commands: argparse._SubParsersAction) -> None:
    data = commands.add_parser("data", help="check a folder of data, or make it ready for training")
    actions = data.add_subparsers(title="commands", metavar="COMMAND", required=True)
    summary = "read every data set in a folder: examples by class beside the published counts, unreadable files by name"
    check = actions.add_parser("check", help=summary, description=f"{summary.capitalize()}.")
    check.add_argument("root", type=Path, help="what --data-root would be")
    check.set_defaults(run=_check_data)
    summary = "unpack the archives in a folder, and make the frames of a recipe; what is there already is left as it is"
    prepare = actions.add_parser("prepare", help=summary, description=f"{summary.capitalize()}.")
    prepare.add_argument("root", type=Path, help="what --data-root would be")
    prepare.add_argument("--recipe", type=Path, help="make its frames; without it, unpack only")
    prepare.add_argument("--profile", choices=PROFILES, default="paper", help="of the recipe")
    prepare.add_argument("--workers", type=count, metavar="N", default=4, help="threads")
    prepare.set_defaults(run=_prepare_data)


def _add_render_command(commands: argparse._SubParsersAction) -> None:
    summary = "write every table and figure of a results folder again from its evidence, or check that they are as then"
    render = commands.add_parser("render", help=summary, description=f"{summary.capitalize()}.")
    render.add_argument("--out", type=Path, metavar="FOLDER", default=Path("results"), help="the results folder")
    render.add_argument(
        "--reproductions", type=Path, metavar="FOLDER", default=Path("reproductions"), help="where claims/ is"
    )
    render.add_argument("--check", action="store_true", help="write nothing; exit code 1 if a view differs")
    add_plugin_option(render)
    render.set_defaults(run=_render)


def _add_report_command(commands: argparse._SubParsersAction) -> None:
    summary = "write one page that has every table and figure of the papers beside what was measured"
    report = commands.add_parser("report", help=summary, description=f"{summary.capitalize()}.")
    report.add_argument(
        "--root",
        nargs="+",
        type=Path,
        metavar="FOLDER",
        help="folders of results; default: results, where there is one, and what is committed under reproductions",
    )
    report.add_argument(
        "--reproductions", type=Path, metavar="FOLDER", default=Path("reproductions"), help="has claims/"
    )
    report.add_argument("--out", type=Path, metavar="FOLDER", default=Path("results"), help="for index.html, .md, .tex")
    add_plugin_option(report)
    report.set_defaults(run=_report)


def _doctor(options: argparse.Namespace) -> int:
    from jellyplus import doctor  # it loads every backend, which no other command needs

    return doctor.main()


def _check_data(options: argparse.Namespace) -> int:
    return _with_extra("jellyplus.datasets.command", "data").check(options.root)


def _prepare_data(options: argparse.Namespace) -> int:
    command = _with_extra("jellyplus.datasets.command", "data")
    if not options.recipe:
        command.unpack(options.root)
        return 0
    recipe = _with_extra("jellyplus.training.recipe", "data").load_file(options.recipe, options.profile).recipe
    command.unpack(options.root)
    command.prepare_frames(
        options.root, recipe.data.dataset, recipe.data.events, recipe.model.time_steps, max(options.workers, 1)
    )
    return 0


def _render(options: argparse.Namespace) -> int:
    return _with_extra("jellyplus.reproduction.views", "render").main(options)


def _train(options: argparse.Namespace) -> int:
    return _with_extra("jellyplus.reproduction.cli", "train").train(options)


def _report(options: argparse.Namespace) -> int:
    return _with_extra("jellyplus.reproduction.page", "report").report(options)


def _with_extra(module: str, command: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise InputError(f'{command} needs {error.name}: pip install -e ".[reproduce]" has it') from error


if __name__ == "__main__":
    sys.exit(main())
