"""What needs more than the plugin: the libraries of an extra."""

import importlib
from types import ModuleType

from jellyplus._errors import InputError


def with_extra(module: str, command: str) -> ModuleType:
    """Import a module for a command.

    Raises:
        InputError: a library is missing; it names the extra that has it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise InputError(f'{command} needs {error.name}: pip install -e ".[reproduce]" has it') from error


def library(name: str, extra: str) -> ModuleType:
    """Import a library for a function.

    Raises:
        ImportError: it is missing; it names the extra that has it.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ImportError(f'this needs {error.name}: pip install -e ".[{extra}]" has it') from error
