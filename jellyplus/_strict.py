"""A frozen dataclass from a mapping, strictly: every key known, none missing, every value of its declared type.

jsonargparse turns "3" into 3 for an int field and names neither the file nor what would be right.
"""

import copy
import dataclasses
import functools
import os
import re
import sys
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from reprlib import repr as shortened
from typing import Any, Literal, TypeVar, Union

import yaml
from yaml.error import MarkedYAMLError

from jellyplus._errors import InputError
from jellyplus._files import read_file

T = TypeVar("T")

_EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")  # YAML 1.1 reads 1e-4 as a string
_CONTROL = re.compile(  # of terminals, and of the direction of writing; and surrogates, which UTF-8 cannot write
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
_MAX_BYTES = 2**18  # the largest file of ours is a twentieth of it
_DEEPEST = 50  # brackets within brackets; PyYAML's time grows with their square
_SCALARS = {str: "a string", int: "an integer", float: "a finite number", bool: "true or false"}


class _Loader(yaml.SafeLoader):
    """PyYAML's, which keeps the last of a key given twice, and makes a billion values of ten lines of aliases."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise MarkedYAMLError(problem="an alias in place of a value", problem_mark=self.peek_event().start_mark)
        return super().compose_node(parent, index)

    def fetch_flow_collection_start(self, token: type[yaml.Token]) -> None:
        if self.flow_level == _DEEPEST:
            raise MarkedYAMLError(problem="too many brackets within brackets", problem_mark=self.get_mark())
        super().fetch_flow_collection_start(token)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key, _ in node.value:
            if (name := str(key.value)) in seen:
                raise MarkedYAMLError(problem=f"the key {name!r} is given twice", problem_mark=key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


def load_yaml(path: str | os.PathLike, root: Path | None = None) -> Any:
    """Return what the YAML file ``path`` holds.

    Args:
        path: the file.
        root: a folder that no link may take it out of, see :func:`jellyplus._files.read_file`.

    Raises:
        InputError: there is no such file, it is no file or out of ``root``, it is larger than 256 KiB, it is not YAML,
            a key is given twice, or it has aliases.
    """
    content = _content(Path(path), root)
    try:
        return copy.deepcopy(_parsed(content))
    except RecursionError as error:
        raise InputError(f"{path} is nested too deeply; give a file like those in recipes/") from error
    except Exception as error:  # KeyError, AttributeError and others, of scalars like 2024-13-45 and !!bool x
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise InputError(f"{path}{line} is not YAML: {reason}; correct it there") from error


@functools.lru_cache(maxsize=512)  # a page of all tables reads the same profiles hundreds of times
def _parsed(content: bytes) -> Any:
    return yaml.load(content.decode(), _Loader)


def _content(path: Path, root: Path | None) -> bytes:
    try:
        if path.is_dir():
            raise InputError(f"cannot read {path}: it is not a file; check the name")
        content = read_file(path, root, _MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # a ValueError where the name holds a null character
        raise InputError(f"cannot read {path}: {getattr(error, 'strerror', error)}; check the name") from error
    if len(content) > _MAX_BYTES:
        raise InputError(f"{path} is larger than {_MAX_BYTES // 2**10} KiB; give a file like those in recipes/")
    return content


def from_mapping(cls: type[T], mapping: Any, where: str) -> T:
    """Return the dataclass ``cls`` filled from ``mapping``.

    A field may be a str, int, float, bool, Literal, dict, dict[str, X], tuple[X, ...], dataclass, or a union of these
    and None. A field with a default may be left out. An integer is accepted as a float, a bool as nothing else.

    Args:
        cls: a dataclass; a ValueError from its ``__post_init__`` counts as bad input.
        mapping: what was read, usually from YAML or JSON.
        where: the file it was read from.

    Raises:
        InputError: a key is unknown or missing, or a value is of another type; it names the dotted key and ``where``.
    """
    try:
        return _convert(cls, mapping, "")
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error


def _convert(kind: Any, value: Any, key: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        return _union(arguments, value, key)
    if origin is Literal:
        if any(type(value) is type(option) and value == option for option in arguments):
            return value
        raise _wrong(kind, value, key)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise _wrong(kind, value, key)
        return tuple(_convert(arguments[0], item, f"{key}[{i}]") for i, item in enumerate(value))
    if origin is dict or kind is dict:
        if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
            raise _wrong(kind, value, key)
        return {
            name: _convert(arguments[1], item, _dotted(key, name)) if arguments else item
            for name, item in value.items()
        }
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return _dataclass(kind, value, key)
    return _scalar(kind, value, key)


def _dataclass(cls: type, value: Any, key: str) -> Any:
    if not isinstance(value, Mapping):
        raise _wrong(cls, value, key)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    for name in value:
        if name not in fields:
            raise ValueError(f"unknown key '{_dotted(key, name)}'; remove it or use one of {', '.join(fields)}")
    for name, field in fields.items():
        if name not in value and field.default is field.default_factory is dataclasses.MISSING:
            raise ValueError(f"key '{_dotted(key, name)}' is missing; add it ({_described(hints[name])})")
    converted = {name: _convert(hints[name], item, _dotted(key, name)) for name, item in value.items()}
    try:
        return cls(**converted)
    except ValueError as error:
        raise ValueError(f"{key}: {error}" if key else str(error)) from error


def _union(options: tuple, value: Any, key: str) -> Any:
    kinds = [option for option in options if option is not types.NoneType]
    if value is None and len(kinds) < len(options):
        return None
    if len(kinds) == 1:
        return _convert(kinds[0], value, key)
    for kind in kinds:
        try:
            return _convert(kind, value, key)
        except ValueError:
            continue
    raise _wrong(Union[options], value, key)  # noqa: UP007 - built at run time


def _scalar(kind: type, value: Any, key: str) -> Any:
    if kind is float:
        if isinstance(value, str) and _EXPONENT.fullmatch(value):
            value = float(value)
        if type(value) in (int, float) and abs(value) <= sys.float_info.max:  # False for nan
            return float(value)
    elif kind is str and type(value) is str and _CONTROL.search(value):
        raise ValueError(f"key '{key}' is {shortened(value)}; write it without control characters")
    elif type(value) is kind:
        return value
    raise _wrong(kind, value, key)


def _wrong(kind: Any, value: Any, key: str) -> ValueError:
    subject = f"key '{key}' is" if key else "the content is"
    return ValueError(f"{subject} {shortened(value)}; it must be {_described(kind)}")


def _described(kind: Any) -> str:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(_described(argument) for argument in arguments)
    if origin is Literal:
        return "one of " + ", ".join(map(repr, arguments))
    if origin is tuple:
        return "a list"
    if kind is types.NoneType:
        return "null"
    return _SCALARS.get(kind, "a mapping of names to values")


def _dotted(key: str, name: object) -> str:
    return f"{key}.{name}" if key else str(name)
