"""What settings say about values that do not fit: a ValueError with one sentence, to be said with their file's name."""

from typing import Any

from jellyplus._errors import InputError
from jellyplus.registry import Registry

__all__ = ["at_least", "at_most", "positive", "refuse", "registered"]


def refuse(when: object, reason: str) -> None:
    """Raise the sentence, where something is the case."""
    if when:
        raise ValueError(reason)


def at_least(settings: Any, name: str, least: float) -> None:
    """Refuse less than ``least``."""
    refuse(getattr(settings, name) < least, f"{name} is {getattr(settings, name)}; it must be at least {least}")


def at_most(settings: Any, name: str, most: float) -> None:
    """Refuse more than ``most``."""
    refuse(getattr(settings, name) > most, f"{name} is {getattr(settings, name)}; it must be at most {most}")


def positive(settings: Any, *names: str) -> None:
    """Refuse 0 and less."""
    for name in names:
        refuse(getattr(settings, name) <= 0, f"{name} is {getattr(settings, name)}; it must be positive")


def registered(parts: Registry, name: str) -> None:
    """Refuse a name that is not registered."""
    try:
        parts.check(name)
    except InputError as error:
        raise ValueError(str(error)) from error
