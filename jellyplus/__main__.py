"""The command line: ``jellyplus`` or ``python -m jellyplus``."""

import argparse
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from jellyplus._bars import be_quiet
from jellyplus._command import answer
from jellyplus._extra import with_extra
from jellyplus._options import PROFILES, Help, add_plugin_option, add_quiet, add_run_options, count, examples

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
    be_quiet(getattr(options, "quiet", False))
    if "plugin" in options:
        with_extra("jellyplus.registry", options.command).load(options.plugin)
    return options.run(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="jellyplus", description="Tools around the plugin for SpikingJelly.")
    parser.add_argument("--version", action="version", version=f"jellyplus {metadata.version('jellyplus')}")
    parser.add_argument(
        "--print-completion",
        choices=("bash", "zsh", "tcsh"),
        action=_PrintCompletion,
        help="print what completes these commands in a shell, and stop; bash takes it by "
        'eval "$(jellyplus --print-completion bash)"',
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", required=True)
    summary = "print versions, the backends that work here, and what to do about those that do not"
    doctor = _command(commands, "doctor", summary, "jellyplus doctor")
    doctor.set_defaults(run=_doctor)
    summary = "train the network of one recipe, and record what was measured"
    train = _command(
        commands,
        "train",
        summary,
        "jellyplus train recipes/imloss/cifar10_cifarnet_t4.yaml",
        "jellyplus train recipes/tdbn/cifar10_resnet19_t2.yaml --profile paper --data-root DATA --seeds 0 1 2",
    )
    train.add_argument("recipe", type=Path, help="a file like recipes/tdbn/cifar10_resnet19_t2.yaml")
    add_run_options(train, "embedded, or paper where the recipe has no such profile")
    train.set_defaults(run=_train)
    summary = "print a recipe as it is resolved: each value with the file and line it stands in, and the comment there"
    show = _command(commands, "show", summary, "jellyplus show recipes/dspike/cifar10_t2.yaml --profile paper")
    show.add_argument("recipe", type=Path, help="a file like recipes/tdbn/cifar10_resnet19_t2.yaml")
    show.add_argument("--profile", choices=PROFILES, help="default: embedded, or paper where there is none")
    add_plugin_option(show)
    show.set_defaults(run=_show)
    _add_list_command(commands)
    _add_compare_command(commands)
    _add_data_commands(commands)
    _add_render_command(commands)
    _add_report_command(commands)
    return parser


class _PrintCompletion(argparse.Action):
    """Prints a script of shtab's and ends."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: object, shell: Any, option: str | None = None
    ) -> None:
        shtab = with_extra("shtab", "--print-completion")
        _complete_files(parser, shtab.FILE)
        print(shtab.complete(parser, shell))
        parser.exit()


def _complete_files(parser: argparse.ArgumentParser, how: dict[str, str]) -> None:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _complete_files(command, how)
        elif action.type is Path:
            vars(action)["complete"] = how


def _command(actions: argparse._SubParsersAction, name: str, summary: str, *lines: str) -> argparse.ArgumentParser:
    return actions.add_parser(
        name, help=summary, description=f"{summary.capitalize()}.", epilog=examples(*lines), formatter_class=Help
    )


def _add_list_command(commands: argparse._SubParsersAction) -> None:
    summary = "list recipes, methods (nodes, surrogates, norms, losses), architectures, parts for recipes, and runs"
    listing = _command(
        commands, "list", summary, "jellyplus list", "jellyplus list architectures", "jellyplus list runs"
    )
    listing.add_argument(
        "kinds", nargs="*", metavar="KIND", type=_kind, help=f"{', '.join(_KINDS)}; default: the first three"
    )
    listing.add_argument("--recipes", type=Path, metavar="FOLDER", default=Path("recipes"), help="of all recipes")
    listing.add_argument("--root", type=Path, metavar="FOLDER", default=Path("results"), help="results, for runs")
    add_plugin_option(listing)
    listing.set_defaults(run=_list)


_KINDS = ("recipes", "methods", "architectures", "parts", "runs")


def _kind(text: str) -> str:
    if text not in _KINDS:
        raise argparse.ArgumentTypeError(f"{text!r} cannot be listed; choose from {', '.join(_KINDS)}")
    return text


def _add_compare_command(commands: argparse._SubParsersAction) -> None:
    summary = "show runs beside each other: settings that differ, accuracy, energy, time, and courses"
    compare = _command(
        commands,
        "compare",
        summary,
        "jellyplus compare dspike/cifar10_t6 tdbn/cifar10_resnet19_t6",
        "jellyplus compare dspike/cifar10_t2 dspike/cifar10_t4 --profile embedded --root reproductions/measured",
    )
    compare.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="the name of a recipe, as in dspike/cifar10_t6, its file, the file of a run's evidence, or their folder",
    )
    compare.add_argument("--profile", choices=PROFILES, help="only runs of it; default: of all")
    compare.add_argument(
        "--root", type=Path, metavar="FOLDER", default=Path("results"), help="results of named recipes"
    )
    compare.add_argument(
        "--out", type=Path, metavar="FOLDER", default=Path("results/compare"), help="for compare.csv and compare.png"
    )
    compare.set_defaults(run=_compare)


def _add_data_commands(commands: argparse._SubParsersAction) -> None:
    data = commands.add_parser("data", help="check a folder of data, or make it ready for training")
    actions = data.add_subparsers(title="commands", metavar="COMMAND", required=True)
    summary = "read every data set in a folder: examples by class beside the published counts, unreadable files by name"
    check = _command(actions, "check", summary, "jellyplus data check DATA")
    add_quiet(check)
    check.add_argument("root", type=Path, help="what --data-root would be")
    check.set_defaults(run=_check_data)
    summary = "unpack the archives in a folder, and make the frames of a recipe; what is there already is left as it is"
    prepare = _command(
        actions,
        "prepare",
        summary,
        "jellyplus data prepare DATA",
        "jellyplus data prepare DATA --recipe recipes/tdbn/cifar10dvs_resnet19_t10.yaml",
    )
    add_quiet(prepare)
    prepare.add_argument("root", type=Path, help="what --data-root would be")
    prepare.add_argument("--recipe", type=Path, help="make its frames; without it, unpack only")
    prepare.add_argument("--profile", choices=PROFILES, default="paper", help="of the recipe")
    prepare.add_argument("--workers", type=count, metavar="N", default=4, help="threads")
    prepare.set_defaults(run=_prepare_data)


def _add_render_command(commands: argparse._SubParsersAction) -> None:
    summary = "write every table and figure of a results folder again from its evidence, or check that they are as then"
    render = _command(
        commands, "render", summary, "jellyplus render", "jellyplus render --check --out reproductions/measured"
    )
    add_quiet(render)
    render.add_argument("--out", type=Path, metavar="FOLDER", default=Path("results"), help="the results folder")
    render.add_argument(
        "--reproductions", type=Path, metavar="FOLDER", default=Path("reproductions"), help="where claims/ is"
    )
    render.add_argument("--check", action="store_true", help="write nothing; exit code 1 if a view differs")
    add_plugin_option(render)
    render.set_defaults(run=_render)


def _add_report_command(commands: argparse._SubParsersAction) -> None:
    summary = "write one page that has every table and figure of the papers beside what was measured"
    report = _command(
        commands, "report", summary, "jellyplus report", "jellyplus report --root results other/results --out page"
    )
    add_quiet(report)
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


def _list(options: argparse.Namespace) -> int:
    from jellyplus import _listing  # it loads the plugin, which no help needs

    return _listing.main(options)


def _compare(options: argparse.Namespace) -> int:
    return with_extra("jellyplus.reproduction.compare", "compare").main(options)


def _check_data(options: argparse.Namespace) -> int:
    return with_extra("jellyplus.datasets.command", "data").check(options.root)


def _prepare_data(options: argparse.Namespace) -> int:
    command = with_extra("jellyplus.datasets.command", "data")
    if not options.recipe:
        command.unpack(options.root)
        return 0
    recipe = with_extra("jellyplus.training.recipe_files", "data").load_file(options.recipe, options.profile).recipe
    command.unpack(options.root)
    command.prepare_frames(
        options.root, recipe.data.dataset, recipe.data.events, recipe.model.time_steps, max(options.workers, 1)
    )
    return 0


def _render(options: argparse.Namespace) -> int:
    return with_extra("jellyplus.reproduction.views", "render").main(options)


def _train(options: argparse.Namespace) -> int:
    return with_extra("jellyplus.reproduction.cli", "train").train(options)


def _show(options: argparse.Namespace) -> int:
    return with_extra("jellyplus.training.show", "show").main(options)


def _report(options: argparse.Namespace) -> int:
    return with_extra("jellyplus.reproduction.page", "report").report(options)


if __name__ == "__main__":
    sys.exit(main())
