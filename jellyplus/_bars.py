"""Progress bars, which ``--quiet`` turns off."""

from typing import Any

from tqdm import tqdm

__all__ = ["bar", "be_quiet"]

_quiet = False


def be_quiet(quiet: bool) -> None:
    """Show no bar from now on, or show them again."""
    global _quiet
    _quiet = quiet


def bar(*arguments: Any, disable: bool = False, **settings: Any) -> tqdm:
    """``tqdm``, which shows nothing where :func:`be_quiet` asked for that."""
    return tqdm(*arguments, disable=disable or _quiet, **settings)
