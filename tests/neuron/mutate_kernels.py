"""Changes every statement of the CUDA kernels in turn and asks whether the kernels' checks notice.

    python tests/neuron/mutate_kernels.py [--output benchmarks/mutations.md] [--jobs 2]

The text that a kernel is made of (kernels.h, the Block structs, that of the CPU library too, the index line, and the
surrogates' and the rectifier's expressions) is split into statements; each is changed in every way that ``OPERATORS``
knows; and the kernels that hold it are compiled for the CPU (``cuda_on_cpu``) and run. A mutant is caught where it does
not compile, crashes, takes more than a second of processor time, or gives other numbers than a slow loop in float64
under autograd. Memory is laid out so that an access out of range is a crash or a difference: every array ends at a page
that cannot be touched, and what stands before it is compared.

Not changed is what bfloat16 has of its own, its conversions and the CPU's block (the GPU's is that of half2): the
parity tests compare its bits with those of float32, rounded once.

The exit status is 1 where a survivor is missing in ``JUSTIFIED``, or an entry of ``JUSTIFIED`` is none any more. It
needs Linux and g++ 12 or newer.
"""

import argparse
import ctypes
import faulthandler
import functools
import itertools
import math
import mmap
import multiprocessing
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import NamedTuple

import cuda_on_cpu
import numpy as np
import torch
from torch import Tensor

from jellyplus import surrogate
from jellyplus._files import write_atomically
from jellyplus.neuron import cpp_backend, cupy_backend, kernel_code

# --- the text ---


class Kernel(NamedTuple):
    """What is compiled for a check; dtype is ``float``, ``half2``, or ``CPU`` for the text of ``backend="cpp"``."""

    direction: str
    hard: bool
    fire: surrogate.Surrogate
    detached: bool = False
    rectified: bool = False
    dtype: str = "float"
    strict: bool = False

    @property
    def node(self) -> cupy_backend.NodeKernel:
        """The kernel itself, which has its text."""
        gradient = self.fire.cuda_codes(y="const float slope", x="over_threshold", dtype="float")
        form = kernel_code.Form(self.hard, self.detached, self.rectified, gradient, self.strict)
        dtype = "float" if self.dtype == "CPU" else self.dtype
        return cupy_backend.NodeKernel(self.direction, form.needed_by(self.direction), dtype)

    @property
    def code(self) -> str:
        """Its whole text. What the CPU library has for a thread is a block of its loop here."""
        node = self.node
        if self.dtype != "CPU":
            return node.full_codes
        head = cpp_backend._HEAD[cpp_backend._HEAD.index("#define INLINE") :] + cpp_backend._BLOCK[torch.float32]
        parameters = ", ".join(f"{ctype} {name}" for name, ctype in node.cparams.items())
        begin = f"void {node.kernel_name}({parameters}) {{ const long long i = LANES * (long long)blockIdx.x;"
        return head + kernel_code.body(node.form) + f"{begin} {kernel_code.call(self.direction)} }}"

    @property
    def threads(self) -> int:
        """In a block of the grid."""
        return 1 if self.dtype == "CPU" else 256

    @property
    def lanes(self) -> int:
        """Neurons of one thread."""
        return {"float": 1, "half2": 2, "CPU": 512}[self.dtype]


_TRIANGULAR = surrogate.Triangular(gamma=1.5, v_threshold=0.75)
_DSPIKE = surrogate.Dspike(temperature=2.5)
KERNELS = {
    "forward hard": Kernel("forward", True, _TRIANGULAR),
    "forward soft": Kernel("forward", False, _TRIANGULAR),
    "forward strict": Kernel("forward", True, _TRIANGULAR, strict=True),
    "forward half2": Kernel("forward", True, _TRIANGULAR, dtype="half2"),
    "forward CPU": Kernel("forward", True, _TRIANGULAR, dtype="CPU"),
    "backward hard": Kernel("backward", True, _DSPIKE),
    "backward soft": Kernel("backward", False, _TRIANGULAR),
    "backward hard detached": Kernel("backward", True, _TRIANGULAR, detached=True),
    "backward soft detached": Kernel("backward", False, _TRIANGULAR, detached=True),
    "backward rectified": Kernel("backward", False, _TRIANGULAR, rectified=True),
    "backward half2": Kernel("backward", True, _TRIANGULAR, dtype="half2"),
    "backward CPU": Kernel("backward", True, _TRIANGULAR, dtype="CPU"),
    "Triangular": Kernel("backward", False, _TRIANGULAR),
    "Rectangular": Kernel("backward", False, surrogate.Rectangular(width=1.5)),
    "Dspike": Kernel("backward", False, _DSPIKE),
    "EvAF": Kernel("backward", False, surrogate.EvAF(k=2.5)),
}
SURROGATES = ("Triangular", "Rectangular", "Dspike", "EvAF")
#: Which kernels show a change, by the function of kernels.h that is changed, or by source.
AFFECTED = {
    "Dynamics": ("forward hard", "backward hard"),
    "charge": ("forward hard", "backward hard"),
    "fire": ("forward hard", "forward strict", "backward hard"),
    "reset": ("forward hard", "forward soft"),
    "slope_at": ("backward rectified", "backward soft"),
    "kept": ("backward hard", "backward soft", "backward hard detached", "backward soft detached"),
    "forward_block": ("forward hard", "forward half2", "forward CPU"),
    "backward_block": ("backward hard", "backward half2", "backward CPU"),
    "Block of float": ("forward hard", "backward hard"),
    "Block of half2": ("forward half2", "backward half2"),
    "Block of the CPU": ("forward CPU", "backward CPU"),
    "index": ("forward hard", "forward half2", "backward hard"),
    "call forward": ("forward hard",),
    "call backward": ("backward hard",),
    "constants": ("backward hard detached",),
    "rectifier": ("backward rectified",),
    **{name: (name,) for name in SURROGATES},
}


@functools.cache
def sources() -> dict[str, str]:
    """The pieces of the kernels' text, each as it stands in one of them."""
    constants, _, _ = _in_front("backward hard detached")
    _, _, rectifier = _in_front("backward rectified")
    return {
        "kernels.h": kernel_code._kernels(),
        **{f"Block of {dtype}": cupy_backend._BLOCK[dtype] for dtype in ("float", "half2")},
        "Block of the CPU": cpp_backend._BLOCK[torch.float32],
        "index": KERNELS["forward hard"].node.head,
        **{f"call {direction}": kernel_code.call(direction) for direction in kernel_code.PARAMETERS},
        "constants": constants,
        "rectifier": rectifier,
        **{name: _in_front(name)[1] for name in SURROGATES},
    }


def _in_front(name: str) -> tuple[str, str, str]:
    """Of what kernel_code puts in front of kernels.h: the constants, the surrogate, and the rectifier."""
    text = kernel_code.body(KERNELS[name].node.form).removesuffix(kernel_code._kernels())
    surrogate_at, rectifier_at = text.index("INLINE float surrogate_"), text.index("INLINE float rectified_")
    return text[:surrogate_at], text[surrogate_at:rectifier_at], text[rectifier_at:]


# --- statements ---


class Token(NamedTuple):
    """A word, a number or an operator, and where it begins."""

    kind: str
    text: str
    begin: int

    @property
    def end(self) -> int:
        """Where the next one may begin."""
        return self.begin + len(self.text)


_TOKEN = re.compile(
    r"""(?P<nothing>\s+|//[^\n]*|\#[^\n]*)
    |(?P<word>[A-Za-z_]\w*)
    |(?P<number>\d+(?:\.\d*)?(?:e[+-]?\d+)?f?)
    |(?P<operator>\+\+|--|<=|>=|==|!=|&&|\|\||.)""",
    re.VERBOSE,
)


def tokens(text: str) -> list[Token]:
    """All but white space, comments and preprocessor lines."""
    found = (Token(match.lastgroup, match[0], match.start()) for match in _TOKEN.finditer(text))
    return [token for token in found if token.kind != "nothing"]


class Statement(NamedTuple):
    """A part of a source: where is the function or struct that it stands in, numbered where there are several."""

    source: str
    where: str
    kind: str
    tokens: tuple[Token, ...]

    @property
    def begin(self) -> int:
        """The first character's place in the source."""
        return self.tokens[0].begin

    @property
    def end(self) -> int:
        """The place behind the last character."""
        return self.tokens[-1].end

    @property
    def text(self) -> str:
        """As it stands in the source."""
        return sources()[self.source][self.begin : self.end]


#: What stands between statements.
PUNCTUATION = ("{", "}", ";", "if", "for", "(", ")")
_MACROS = ("UNROLLED", "EACH_LANE")
_TYPES = ("static", "const", "constexpr", "typedef", "float", "float2", "half", "half2", "int", "long", "bool")
_TYPES += ("size_t", "Stored", "Block")


class _Splitter:
    """Cuts a source at its semicolons, braces and headers; conditions and a loop's three parts are statements too."""

    def __init__(self, source: str):
        self.source, self.tokens, self.at = source, tokens(sources()[source]), 0
        self.where, self.seen = source, Counter()

    def statements(self) -> Iterator[Statement]:
        while self.at < len(self.tokens):
            text = self.tokens[self.at].text
            if text in ("{", "}", ";"):
                self.at += 1
            elif text in ("else", *_MACROS):
                yield self._statement(self.at + 1, "else" if text == "else" else "macro")
            elif text in ("if", "for"):
                yield from self._header("condition" if text == "if" else "loop")
            else:
                yield self._plain()

    def _statement(self, end: int, kind: str) -> Statement:
        part, self.at = tuple(self.tokens[self.at : end]), end
        return Statement(self.source, self.where, kind, part)

    def _header(self, kind: str) -> Iterator[Statement]:
        end = closing(self.tokens, self.at + 1)
        self.at += 2
        if kind == "condition":
            yield self._statement(end, kind)
        else:
            for part in ("initialiser", "condition", "step"):
                semicolon = next(i for i in range(self.at, end + 1) if i == end or self.tokens[i].text == ";")
                yield self._statement(semicolon, part)
                self.at = semicolon + 1
        self.at = end + 1

    def _plain(self) -> Statement:
        """Up to a semicolon, or to a brace that begins a body."""
        end = self.at
        while end < len(self.tokens) and self.tokens[end].text not in (";", "}"):
            if self.tokens[end].text == "{" and self.tokens[end - 1].text != "=":
                self._enter(self.tokens[self.at : end])
                return self._statement(end, "signature")
            end = closing(self.tokens, end) + 1 if self.tokens[end].text in ("(", "[", "{") else end + 1
        first = self.tokens[self.at].text
        kind = "return" if first == "return" else "declaration" if first in _TYPES else "expression"
        return self._statement(end, kind)

    def _enter(self, signature: list[Token]) -> None:
        bracket = next((i for i, token in enumerate(signature) if token.text == "("), len(signature))
        name = signature[bracket - 1].text
        self.seen[name] += 1
        self.where = name if self.seen[name] == 1 else f"{name} #{self.seen[name]}"


def closing(part: list[Token], opening: int) -> int:
    """The index of the bracket that closes the one at ``opening``."""
    depth = 0
    for i in range(opening, len(part)):
        depth += (part[i].text in "([{") - (part[i].text in ")]}")
        if depth == 0:
            return i
    raise ValueError(f"no bracket closes the one at {part[opening].begin}")


@functools.cache
def statements() -> tuple[Statement, ...]:
    """Of all sources; signatures are among them."""
    return tuple(statement for source in sources() for statement in _Splitter(source).statements())


# --- mutants ---


class Change(NamedTuple):
    """New text for a part of a source."""

    begin: int
    end: int
    text: str


class Mutant(NamedTuple):
    """A changed statement: ``label`` shows the change and what stands around it."""

    statement: Statement
    operator: str
    change: Change
    label: str

    @property
    def key(self) -> tuple[str, str, str]:
        """How JUSTIFIED names it."""
        return (self.statement.source, self.statement.where, self.label)

    @property
    def affected(self) -> tuple[str, ...]:
        """The kernels to run."""
        source, where = self.statement.source, self.statement.where
        return AFFECTED[where if source == "kernels.h" else source]

    def text(self) -> str:
        """The source with the change."""
        whole, (begin, end, new) = sources()[self.statement.source], self.change
        return whole[:begin] + new + whole[end:]


def deleted(statement: Statement) -> Iterator[Change]:
    """The statement left out; a declaration is not, since its names are used, but for one that nothing else changes."""
    is_one = statement.kind in ("expression", "return", "step", "else") or statement.text == "UNROLLED"
    if is_one or statement.text.startswith("typedef"):
        yield Change(statement.begin, statement.end, "")


def decided(statement: Statement) -> Iterator[Change]:
    """A condition that always holds, or never."""
    if statement.kind == "condition":
        yield from (Change(statement.begin, statement.end, value) for value in ("true", "false"))


def lanes_left_out(statement: Statement) -> Iterator[Change]:
    """A loop over the lanes but the first or the last."""
    if statement.text == "EACH_LANE":
        for header in ("int lane = 1; lane < LANES; lane++", "int lane = 0; lane < LANES - 1; lane++"):
            yield Change(statement.begin, statement.end, f"for ({header})")


_ARITHMETIC = {"+": "-", "-": "+", "*": "/", "/": "*", "%": "/", "++": "--", "--": "++", "!": ""}
_LOGIC = {"==": "!=", "!=": "==", "&&": "||", "||": "&&"}
_ORDER = {"<": ("<=", ">="), "<=": ("<", ">"), ">": (">=", "<="), ">=": (">", "<")}
_OPERATORS = {old: (new,) for old, new in (_ARITHMETIC | _LOGIC).items()} | _ORDER


def operators_swapped(statement: Statement) -> Iterator[Change]:
    """Another operator of the same kind; an asterisk behind a type is none, nor one in front of an operand."""
    for before, token in _with_previous(statement):
        if statement.kind == "signature" or token.text not in _OPERATORS:
            continue
        operand = before.kind in ("word", "number") or before.text in (")", "]")
        if token.text != "*" or (operand and before.text not in _TYPES):
            yield from (Change(token.begin, token.end, new) for new in _OPERATORS[token.text])


def literals_changed(statement: Statement) -> Iterator[Change]:
    """0 becomes 1, and any other number one less and one more; the size in a parameter's type stays."""
    for token in statement.tokens:
        if token.kind == "number" and statement.kind != "signature":
            value = float(token.text.removesuffix("f"))
            for new in (value - 1, value + 1) if value else (1.0,):
                yield Change(token.begin, token.end, f"{new!r}f" if token.text.endswith("f") else str(int(new)))


#: Names by which a name may be confused; those are tried that the function knows. No name: the call's brackets remain.
RELATED = {
    "x": ("v", "h"),
    "v": ("x", "h"),
    "h": ("v", "x", "spike"),
    "spike": ("h", "v"),
    "slope": ("h",),
    "by_spike": ("direct",),
    "direct": ("by_spike",),
    "grad_v": ("from_v", "v"),
    "from_spike": ("from_h",),
    "from_h": ("from_v",),
    "from_v": ("from_h",),
    "by_reset": ("slope",),
    "v_init": ("x_seq",),
    "x_seq": ("v_init",),
    "v_start": ("0.0f",),
    "otherwise": ("0.0f",),
    "spike_seq": ("h_seq", "v_seq"),
    "h_seq": ("v_seq",),
    "v_seq": ("h_seq",),
    "v_last": ("v_seq",),
    "grad_spike_seq": ("grad_h_seq",),
    "grad_h_seq": ("grad_v_seq",),
    "grad_v_seq": ("grad_h_seq",),
    "grad_v_last": ("grad_v_seq",),
    "grad_x": ("from_spike", "from_h"),
    "x_step": ("n", "grad_spike_step"),
    "grad_spike_step": ("n", "x_step"),
    "begin": ("i",),
    "x_room": ("spike_room",),
    "spike_room": ("x_room",),
    "at": ("at + 1",),
    "checkpoints": ("v_seq", "surrogate_parameter"),
    "surrogate_parameter": ("checkpoints",),
    "t": ("T", "n"),
    "T": ("t", "n"),
    "n": ("i", "x_step"),
    "i": ("n", "0"),
    "first": ("segment",),
    "segment": ("first",),
    "s": ("segment", "first"),
    "lane": ("0", "(1 - lane)"),
    "LANES": ("1",),
    "SEGMENT": ("LANES", "T"),
    "HARD_RESET": ("DETACH_RESET", "!HARD_RESET"),
    "DETACH_RESET": ("HARD_RESET", "!DETACH_RESET"),
    "RECTIFY": ("!RECTIFY",),
    "v_th": ("decay", "reset_to"),
    "decay": ("v_th",),
    "reset_to": ("v_th",),
    "over_threshold": ("0.0f",),
    "blockIdx": ("threadIdx",),
    "threadIdx": ("blockIdx",),
    "blockDim": ("blockIdx", "threadIdx"),
    "true": ("false",),
    "false": ("true",),
    "to": ("from",),
    "tanhf": ("cbrtf", ""),
    "cbrtf": ("tanhf", ""),
    "fabsf": ("",),
    "expf": ("tanhf", ""),
    "rectified_over_half": ("rectify_gradient", ""),
    "rectify_gradient": ("rectified_over_half", ""),
}
_MEMBERS = {"decay": ("v_th",), "v_th": ("decay", "reset"), "reset": ("v_th", "decay")}
_ALWAYS_KNOWN = re.compile(r"[^A-Za-z]|$|.* |true|false|tanhf|cbrtf|LANES|(DETACH|HARD)_RESET|rectif|(block|thread)Idx")


def names_confused(statement: Statement) -> Iterator[Change]:
    """A related name in place of a name, or another member."""
    if statement.kind == "signature":
        return
    known = _names(statement.source, statement.where)
    for before, token in _with_previous(statement):
        if before.text == ".":
            related = _MEMBERS.get(token.text, ())
        else:
            related = [new for new in RELATED.get(token.text, ()) if new in known or _ALWAYS_KNOWN.match(new)]
        if token.text not in _declared(statement):
            yield from (Change(token.begin, token.end, new) for new in related)


def types_narrowed(statement: Statement) -> Iterator[Change]:
    """int for long long, wherever it stands, and for the float of a declaration; or a cast to long long left out."""
    source = sources()[statement.source]
    for match in re.finditer(r"\(?\blong long\b\)?", source[statement.begin : statement.end]):
        begin, end = statement.begin + match.start(), statement.begin + match.end()
        yield Change(begin, end, "" if match[0].endswith(")") else match[0].replace("long long", "int"))
    if statement.kind == "declaration":
        floats = (token for token in statement.tokens if token.text in ("float", "float2"))
        yield from (Change(token.begin, token.end, "int") for token in floats)


def branches_swapped(statement: Statement) -> Iterator[Change]:
    """The values of ``? :`` the other way round."""
    source, part = sources()[statement.source], statement.tokens
    for i, token in enumerate(part):
        if token.text == "?":
            colon = _extent(part, i + 1, 1, (":",))
            end = part[_extent(part, colon + 1, 1, (",", ":")) - 1].end
            yes, no = source[token.end : part[colon].begin], source[part[colon].end : end]
            yield Change(token.end, end, f" {no.strip()} : {yes.strip()}")


def operands_left_out(statement: Statement) -> Iterator[Change]:
    """One side of ``&&`` or ``||``."""
    part, borders = statement.tokens, ("&&", "||", "?", ":", "=", ",", "return")
    for i, token in enumerate(part):
        if token.text in ("&&", "||"):
            left, right = _extent(part, i - 1, -1, borders) + 1, _extent(part, i + 1, 1, borders) - 1
            yield Change(part[left].begin, part[i + 1].begin, "")
            yield Change(token.begin, part[right].end, "")


def neighbours_swapped(statement: Statement) -> Iterator[Change]:
    """Two parameters of one type, or two members of a struct, in the other order."""
    source = sources()[statement.source]
    if statement.kind == "signature":
        names = re.finditer(r"(?<=[(,])\s*([^(),]*?)(\w+)(?=[,)])", source[statement.begin : statement.end])
    elif re.fullmatch(r"(float|long long) \w+(, \w+)+", statement.text):
        names = re.finditer(r"()(\w+)(?=,|$)", statement.text)
    else:
        return
    found = list(names)
    for one, two in itertools.pairwise(found):
        if one[1].split() == two[1].split():
            between = statement.text[one.end(2) : two.start(2)]
            yield Change(statement.begin + one.start(2), statement.begin + two.end(2), two[2] + between + one[2])


#: In the order of the report.
OPERATORS: tuple[Callable[[Statement], Iterator[Change]], ...] = (
    *(deleted, decided, lanes_left_out, operators_swapped, literals_changed, names_confused, types_narrowed),
    *(branches_swapped, operands_left_out, neighbours_swapped),
)


@functools.cache
def mutants() -> tuple[Mutant, ...]:
    """All changes of all statements, each text once."""
    seen, labels, found = set(), Counter(), []
    for statement in statements():
        source = sources()[statement.source]
        for operator in OPERATORS:
            for change in operator(statement):
                identity = (statement.source, source[: change.begin] + change.text + source[change.end :])
                if identity in seen or identity[1] == source:
                    continue
                seen.add(identity)
                label = _label(source, statement, change)
                labels[statement.source, statement.where, label] += 1
                if (count := labels[statement.source, statement.where, label]) > 1:
                    label += f" #{count}"
                found.append(Mutant(statement, operator.__name__, change, label))
    return tuple(found)


def _label(source: str, statement: Statement, change: Change) -> str:
    around = 40  # characters on either side
    before = source[max(statement.begin, change.begin - around) : change.begin]
    after = source[change.end : min(statement.end, change.end + around)]
    label = f"{before}[{source[change.begin : change.end]} -> {change.text}]{after}"
    return re.sub(r"\s+", " ", re.sub(r"//[^\n]*", "", label)).strip()


def _with_previous(statement: Statement) -> Iterator[tuple[Token, Token]]:
    return zip((Token("operator", "", 0), *statement.tokens), statement.tokens, strict=False)


@functools.cache
def _names(source: str, where: str) -> frozenset[str]:
    parts = (statement.tokens for statement in statements() if (statement.source, statement.where) == (source, where))
    return frozenset(token.text for part in parts for token in part if token.kind == "word")


def _declared(statement: Statement) -> tuple[str, ...]:
    """The names that a declaration makes: to change one there breaks its uses and nothing else."""
    if statement.kind not in ("declaration", "initialiser"):
        return ()
    left = re.split(r"[={]", statement.text)[0]
    if statement.source == "constants":
        return tuple(re.findall(r"\b[A-Z_]+\b", left))
    return tuple(re.findall(r"\b[a-z]\w*\b", left))


def _extent(part: tuple[Token, ...], i: int, step: int, borders: tuple[str, ...]) -> int:
    """The first index from ``i`` on where an expression ends: at a border, or at a bracket around it."""
    depth = 0
    while 0 <= i < len(part):
        text = part[i].text
        if depth == 0 and (text in borders or text in ("([{" if step < 0 else ")]}")):
            return i
        depth += step * ((text in "([{") - (text in ")]}"))
        depth += (text == "?") - (text == ":") if borders == (":",) else 0
        i += step
    return i


# --- memory ---

_PAGE = mmap.PAGESIZE


class Region:
    """An array in memory that ends ``slack`` bytes before a page that nobody may touch; NaN stands around it.

    Args:
        content: [rows, columns], or fewer dimensions.
        is_output: it is NaN first, and ``content`` what is wanted.
        slack: bytes left behind the array.
        tolerance: relative and absolute, of an output.
        stride: bytes from one row to the next where they do not follow each other.
    """

    def __init__(
        self, content: np.ndarray, is_output: bool, slack: int = 0, tolerance: float = 0.0, stride: int | None = None
    ):
        rows = [np.ascontiguousarray(content)] if stride is None else list(content)
        room = -(-(rows[0].nbytes + slack) // _PAGE) * _PAGE
        begin = _reserved((len(rows) - 1) * (stride or 0) + room + 4 * _PAGE) + 2 * _PAGE
        self.address, self.itemsize = begin + room - slack - rows[0].nbytes, content.itemsize
        places = (self.address + i * (stride or 0) for i in range(len(rows)))
        self._rows = [_Row(at, row, is_output, tolerance) for at, row in zip(places, rows, strict=True)]

    def is_right(self) -> bool:
        """The output is what is wanted, and nothing else has changed."""
        return all(row.is_right() for row in self._rows)


class _Row:
    """Numbers at an address, the rest of their pages, and the page before."""

    def __init__(self, address: int, content: np.ndarray, is_output: bool, tolerance: float):
        self.content, self.is_output, self.tolerance = content, is_output, tolerance
        begin = address // _PAGE * _PAGE - _PAGE
        end = -(-(address + content.nbytes) // _PAGE) * _PAGE
        _libc().mprotect(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), mmap.PROT_READ | mmap.PROT_WRITE)
        self._bytes = np.frombuffer((ctypes.c_uint8 * (end - begin)).from_address(begin), np.uint8)
        self._begin, self._end = address - begin, address - begin + content.nbytes
        self._bytes[:] = 0xFF
        if not is_output:
            self._array()[...] = content
        self._before = self._bytes.copy()

    def is_right(self) -> bool:
        """See :meth:`Region.is_right`."""
        now, before = self._bytes, self._before
        if not self.is_output:
            return np.array_equal(now, before)
        around = (slice(None, self._begin), slice(self._end, None))
        close = np.allclose(self._array().astype(np.float64), self.content, self.tolerance, self.tolerance)
        return close and all(np.array_equal(now[part], before[part]) for part in around)

    def _array(self) -> np.ndarray:
        return self._bytes[self._begin : self._end].view(self.content.dtype).reshape(self.content.shape)


def _reserved(size: int) -> int:
    """The address of so many bytes that nobody may touch, and that take no memory."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
    reserve = _libc().mmap
    reserve.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    reserve.restype = ctypes.c_void_p
    address = reserve(None, size, 0, flags, -1, 0)
    if address in (None, ctypes.c_void_p(-1).value):
        raise OSError(f"cannot reserve {size} bytes of addresses: see ulimit -v")
    return address


_MAP_NORESERVE = 0x4000  # Linux; in Python's mmap since 3.13


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)


# --- checks ---


class Shape(NamedTuple):
    """Which sequence is run: ``wanted`` are the outputs, or incoming gradients, besides the spikes."""

    T: int
    n: int
    carried: bool
    wanted: tuple[str, ...]
    slack: int = 0
    skipped: int = 0  # neurons before the first; nobody has the memory, and no thread is run for them
    repeated: tuple[str, ...] = ()  # x, or the spikes' gradient: one time-step serves all


_ALL = ("spike", "h", "v", "last", "checkpoints")
SHAPES = (
    Shape(9, 7, True, _ALL),
    Shape(1, 4, False, ("spike",)),
    Shape(1, 3, True, ("spike", "last")),
    Shape(16, 6, False, ("h", "last"), slack=2),
    Shape(19, 5, True, _ALL, repeated=("x",)),
    Shape(18, 8, True, _ALL, repeated=("spike",)),
    Shape(8, 5, True, ("v",)),
    Shape(2, 512, False, ("spike", "last"), repeated=("x",)),  # as many neurons as threads
    Shape(10, 1029, True, _ALL),
    Shape(17, 2048, True, ("spike", "last", "checkpoints"), skipped=2**32),
)
_DECAY, _V_TH, _RESET, _V_START = 0.5, 0.75, 0.25, 0.375  # multiples of 1/8: potentials are exact, and hit V_th


class Case(NamedTuple):
    """A launch of one kernel, and its memory."""

    first_block: int
    blocks: int
    values: tuple  # ctypes
    regions: tuple[Region, ...]

    def is_right(self, launch: Callable) -> bool:
        """Run it; this can be done once."""
        launch(self.first_block, self.blocks, (ctypes.c_void_p * len(self.values))(*map(ctypes.addressof, self.values)))
        return all(region.is_right() for region in self.regions)


def slow_truth(kernel: Kernel, x: Tensor, v: Tensor, incoming: dict[str, Tensor]) -> dict[str, Tensor]:
    """Every sequence, [T, n], and the gradient of ``x``: a loop in float64 under autograd."""
    x, found = x.clone().requires_grad_(), {"spike": [], "h": [], "v": []}
    v_th, reset_to = _constants(kernel)[1:]
    for x_t in x:
        h = _DECAY * v + x_t
        over = (slow_rectifier(h) if kernel.rectified else h) - v_th
        spike = kernel.fire(over) - (kernel.strict * (over == 0)).double()
        by = spike.detach() if kernel.detached else spike
        v = (1 - by) * h + by * reset_to if kernel.hard else h - by * reset_to
        for name, value in (("spike", spike), ("h", h), ("v", v)):
            found[name].append(value)
    found = {name: torch.stack(values) for name, values in found.items()} | {"last": v}
    loss = sum((grad * found[name]).sum() for name, grad in incoming.items())
    (grad_x,) = torch.autograd.grad(loss, x)
    return {name: value.detach() for name, value in found.items()} | {"grad_x": grad_x}


def slow_rectifier(u: Tensor) -> Tensor:
    """Guo et al. 2022, Eq. 10, piece by piece."""
    root = torch.where(u < 0, 1 - u, torch.where(u > 1, u, torch.ones_like(u))) ** (1 / 3)
    middle = torch.tanh(3 * (u - 0.5)) / (2 * math.tanh(1.5)) + 0.5
    return torch.where(u < 0, 1 - root, torch.where(u > 1, root, middle))


def _constants(kernel: Kernel) -> tuple[float, float, float]:
    return _DECAY, 0.5 if kernel.rectified else _V_TH, _RESET if kernel.hard else 1.25


def case(kernel: Kernel, shape: Shape) -> Case:
    """The kernel's arguments for this sequence, with numbers from a seed."""
    generator = torch.Generator().manual_seed(shape.T * 1000 + shape.n)
    eighths = lambda *size: torch.randint(-12, 20, size, generator=generator).double() / 8  # noqa: E731
    sequence = lambda name: eighths(1 if name in shape.repeated else shape.T, shape.n).expand(shape.T, -1)  # noqa: E731
    x, v = sequence("x"), eighths(shape.n) if shape.carried else torch.full((shape.n,), _V_START).double()
    if kernel.rectified and shape.T == 1 and shape.carried:
        x[0, 0], v[0] = 2**-30, 0.0  # 1 + (H - 1) is 0 in float
    grads = {name: sequence(name) for name in ("spike", "h", "v")} | {"last": eighths(shape.n)}
    truth = slow_truth(kernel, x, v, {name: grads[name] for name in grads if name in shape.wanted})
    rows = {name: 1 if name in shape.repeated else None for name in ("x", "spike")}
    grads["spike"] = grads["spike"][: rows["spike"]]
    arrays = {"x_seq": x[: rows["x"]], "v_init": v if shape.carried else None}
    arrays |= _forward(truth, shape) if kernel.direction == "forward" else _backward(truth, grads, shape, kernel)
    return _launch(kernel, shape, arrays)


def _checkpoints(truth: dict[str, Tensor], shape: Shape) -> Tensor | None:
    kept = truth["v"][kernel_code.SEGMENT - 1 : -1 : kernel_code.SEGMENT]
    return kept if "checkpoints" in shape.wanted or len(kept) else None


def _forward(truth: dict[str, Tensor], shape: Shape) -> dict[str, Tensor | None]:
    optional = {"h_seq": truth["h"] if "h" in shape.wanted else None, "v_seq": None, "checkpoints": None}
    if "v" in shape.wanted:
        optional["v_seq"] = truth["v"]
    if "checkpoints" in shape.wanted and shape.T > kernel_code.SEGMENT:
        optional["checkpoints"] = _checkpoints(truth, shape)
    return {"spike_seq": truth["spike"], "v_last": truth["last"]} | optional


def _backward(truth: dict, grads: dict, shape: Shape, kernel: Kernel) -> dict[str, Tensor | None]:
    names = {"spike": "grad_spike_seq", "h": "grad_h_seq", "v": "grad_v_seq", "last": "grad_v_last"}
    incoming = {name: grads[short] if short in shape.wanted else None for short, name in names.items()}
    kept = _checkpoints(truth, shape) if shape.T > kernel_code.SEGMENT else None
    parameter = None if kernel.fire.parameter is None else kernel.fire.parameter[None]
    return incoming | {"checkpoints": kept, "surrogate_parameter": parameter, "grad_x_seq": truth["grad_x"]}


_STEPS = {"x": "x_step", "spike": "grad_spike_step"}
_OUTPUTS = {
    "forward": ("spike_seq", "v_last", "h_seq", "v_seq", "checkpoints"),
    "backward": ("grad_x_seq",),
}


def _launch(kernel: Kernel, shape: Shape, arrays: dict[str, Tensor | None]) -> Case:
    values, regions = [], []
    start = 0.0 if shape.carried else _V_START
    scalars = dict(zip(("decay", "v_th", "reset_to"), _constants(kernel), strict=True))
    n = shape.n + shape.skipped
    steps = {name: 0 if short in shape.repeated else n for short, name in _STEPS.items()}
    scalars |= steps | {"n": n, "T": shape.T, "v_start": start}
    for name, ctype in kernel.node.cparams.items():
        if "*" not in ctype:
            size = {"const int": ctypes.c_int, "const long long": ctypes.c_longlong, "const float": ctypes.c_float}
            values.append(size[ctype](scalars[name]))
        elif arrays[name] is None:
            values.append(ctypes.c_void_p(0))
        else:
            region = _region(kernel, shape, name, ctype, arrays[name])
            skipped = 0 if name == "surrogate_parameter" else shape.skipped * region.itemsize
            regions.append(region)
            values.append(ctypes.c_void_p(region.address - skipped))
    in_a_block = kernel.threads * kernel.lanes
    return Case(shape.skipped // in_a_block, -(-shape.n // in_a_block), tuple(values), tuple(regions))


def _region(kernel: Kernel, shape: Shape, name: str, ctype: str, array: Tensor) -> Region:
    is_half, is_output = "half2" in ctype, name in _OUTPUTS[kernel.direction]
    dtype = np.float16 if is_half else np.float32
    tolerance = (2e-3 if is_half else 2e-5) if is_output else 0.0
    content = array.numpy().astype(dtype)
    stride = (shape.n + shape.skipped) * content.itemsize if shape.skipped and content.ndim == 2 else None
    return Region(content, is_output, shape.slack if is_half else 0, tolerance, stride)


@functools.cache
def cases(name: str) -> tuple[Case, ...]:
    """Of a kernel, those first that catch most."""
    return tuple(case(KERNELS[name], shape) for shape in SHAPES)


# --- compiling and running ---

#: Wrong alignment and indices trap; variables that nobody set are -1.7e38.
_FLAGS = (
    *("-std=c++17", "-O0", "-fPIC", "-ffp-contract=off", "-Werror=return-type", "-Werror=vla"),
    *("-fsanitize=alignment,bounds", "-fsanitize-undefined-trap-on-error", "-ftrivial-auto-var-init=pattern"),
)
_LAUNCH = """
extern "C" void launch{i}(unsigned first, unsigned blocks, void **arguments) {{
    blockDim.x = {threads};
    for (blockIdx.x = first; blockIdx.x < first + blocks; blockIdx.x++)
        for (threadIdx.x = 0; threadIdx.x < blockDim.x; threadIdx.x++) kernel{i}::{name}({arguments});
}}
"""
_SECONDS = 1  # of processor time, a hundred times what is needed


def missing() -> str | None:
    """Why nothing can be built here, or None."""
    if cuda_on_cpu.MISSING or not sys.platform.startswith("linux"):
        return cuda_on_cpu.MISSING or "memory is laid out by Linux's mmap"
    version = subprocess.run(["g++", "-dumpversion"], capture_output=True, text=True, check=True).stdout
    return None if int(version.split(".")[0]) >= 12 else f"g++ is {version.strip()}, and 12 has -ftrivial-auto-var-init"


class Workshop:
    """A folder where mutants are built, and the header that all of them begin with, compiled once."""

    def __init__(self, folder: Path):
        self.folder = folder
        header = folder / "cuda.h"
        header.write_text(cuda_on_cpu._WORDS + "#include <cstring>\n#include <cuda_fp16.h>\n")
        self._gcc("-x", "c++-header", str(header), "-o", f"{header}.gch", check=True)

    def outcome(self, names: tuple[str, ...], source: str = "", text: str = "") -> str:
        """``survived``, or how it was caught; ``source`` of each kernel is replaced by ``text``."""
        outcomes = (self._outcome(part, source, text) for part in (names[:1], names[1:]) if part)  # mostly by the first
        return next((outcome for outcome in outcomes if outcome != "survived"), "survived")

    def _outcome(self, names: tuple[str, ...], source: str, text: str) -> str:
        library = self.folder / f"{os.getpid()}.so"
        cpp = library.with_suffix(".cpp")
        cpp.write_text(_unit([KERNELS[name] for name in names], source, text))
        built = self._gcc("-shared", "-nostdlib", "-o", str(library), str(cpp), "-lm")
        if built.returncode == 0:
            return run(library, names)
        if not re.search(r"\.cpp:\d+:\d+: error", built.stderr):
            raise RuntimeError(f"the compiler failed: {built.stderr}")
        return "compile"

    def _gcc(self, *arguments: str, check: bool = False) -> subprocess.CompletedProcess:
        include = ("-I", str(Path(cuda_on_cpu.__file__).parent), "-I", str(self.folder))
        command = ["g++", *_FLAGS, *include, *arguments]
        return subprocess.run(command, check=check, capture_output=True, text=True, env=os.environ | {"LC_ALL": "C"})


def _unit(kernels: list[Kernel], source: str, text: str) -> str:
    """What g++ is given: each kernel in a namespace of its own, and behind it its launcher."""
    parts = ['#include "cuda.h"']
    for i, kernel in enumerate(kernels):
        name, code = kernel.node.kernel_name, kernel.code
        arguments = ", ".join(cuda_on_cpu._arguments(code, name))
        if source and code.count(source) != 1:
            raise ValueError(f"{name} does not hold this text once: {source}")
        changed = code.replace(source, text) if source else code
        inner = changed.replace('extern "C"', "").replace("#include <cuda_fp16.h>", "")
        parts.append(f"namespace kernel{i} {{\n{inner}\n}}")
        parts.append(_LAUNCH.format(i=i, name=name, arguments=arguments, threads=kernel.threads))
    return "\n".join(parts)


def run(library: Path, names: tuple[str, ...]) -> str:
    """All cases of these kernels, in a process of their own."""
    prepared = [cases(name) for name in names]
    child = os.fork()
    if child == 0:
        status = 3
        try:
            status = _status(library, prepared)
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status == -signal.SIGXCPU:
        return "hang"
    if status < 0:
        return "crash"
    return {0: "survived", 2: "numbers"}[status]


def _status(library: Path, prepared: list[tuple[Case, ...]]) -> int:
    faulthandler.disable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS + 5))
    functions = ctypes.CDLL(str(library))
    every = ((getattr(functions, f"launch{i}"), case) for i, found in enumerate(prepared) for case in found)
    return 0 if all(case.is_right(launch) for launch, case in every) else 2


def outcomes(chosen: tuple[Mutant, ...], jobs: int, report: Callable[[int], None] = lambda done: None) -> list[str]:
    """What became of each mutant.

    Raises:
        AssertionError: the kernels as they are fail.
    """
    with tempfile.TemporaryDirectory(prefix="mutate_kernels") as folder:
        workshop = Workshop(Path(folder))
        needed = tuple(sorted({name for mutant in chosen for name in mutant.affected}))
        assert workshop.outcome(needed) == "survived", "the kernels are wrong before anything is changed"
        found = {}
        for index, outcome in _shared_out(workshop, chosen, jobs):
            found[index] = outcome
            report(len(found))
        return [found[index] for index in range(len(chosen))]


def _shared_out(workshop: Workshop, chosen: tuple[Mutant, ...], jobs: int) -> Iterator[tuple[int, str]]:
    """By processes that share no memory, which a mutant might write to."""
    context = multiprocessing.get_context("fork")
    workers, pipes = [], []
    for job in range(jobs):
        ours, theirs = context.Pipe(duplex=False)
        workers.append(context.Process(target=_work, args=(workshop, chosen, range(job, len(chosen), jobs), theirs)))
        workers[-1].start()
        theirs.close()
        pipes.append(ours)
    while pipes:
        for pipe in wait(pipes):
            try:
                yield pipe.recv()
            except EOFError:
                pipes.remove(pipe)
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0, "a worker failed; its error is above"


def _work(workshop: Workshop, chosen: tuple[Mutant, ...], indices: range, results: Connection) -> None:
    for index in indices:
        mutant = chosen[index]
        results.send((index, workshop.outcome(mutant.affected, sources()[mutant.statement.source], mutant.text())))


# --- survivors ---

#: Reason, source and function, and the changes as the report shows them.
_REASONS: dict[str, dict[tuple[str, str], tuple[str, ...]]] = {
    "direct is 0 or 1": {
        ("kernels.h", "kept"): ("const [float -> int] direct = HARD_RESET ? 1.0f - fire(d, h)",),
    },
    "t is a multiple of SEGMENT there": {
        ("kernels.h", "forward_block"): ("checkpoints && t > [0 -> 1] && t % SEGMENT == 0",),
    },
    "another room that is free: each lane is read before it is written": {
        ("kernels.h", "forward_block"): (
            "const float *x = block.load([x_room -> spike_room], x_seq, t * x_step)",
            "float *spike = block.place([spike_room -> x_room], spike_seq, t * n)",
        ),
        ("kernels.h", "backward_block"): (
            "const float *x = block.load(room[[0 -> 1]], x_seq, (first + s) * x_step)",
            "const float *from_v = block.load(room[[2 -> 3]], grad_v_seq, (first + s) * n)",
            "float *grad_x = block.place(room[[3 -> 2]], grad_x_seq, (first + s) * n)",
        ),
    },
    "more room than is used": {
        ("kernels.h", "backward_block"): ("float room[[4 -> 5]][LANES], grad_v[LANES], v[LANES], h[SEG",),
    },
    "first is segment times SEGMENT": {
        ("kernels.h", "backward_block"): ("[segment -> first] > 0",),
    },
    "there are checkpoints where segment > 0": {
        ("kernels.h", "backward_block"): ("copy(v, checkpoints, (segment - 1) * n, [0.0f -> 1.0f])",),
    },
    "speed only": {
        ("kernels.h", "backward_block"): (
            "[UNROLLED -> ]",
            "[UNROLLED -> ] #2",
        ),
    },
    "computed in the place of an earlier time-step, which is written later, and copied to its own": {
        ("kernels.h", "backward_block"): (
            ".place(room[3], grad_x_seq, (first + s) [* -> /] n)",
            "d_x = block.place(room[3], grad_x_seq, ([first -> segment] + s) * n)",
            "lace(room[3], grad_x_seq, (first + s) * [n -> x_step])",
        ),
    },
    "lane by lane, which is right and slower": {
        ("Block of half2", "paired"): (
            "return both() && (size_t)at [% -> /] sizeof(half2) == 0",
            "both() && (size_t)at % sizeof(half2) == [0 -> 1]",
            "return both() && (size_t)[at -> at + 1] % sizeof(half2) == 0",
        ),
        ("Block of half2", "copy"): ("[paired(at) -> false]",),
        ("Block of half2", "store"): ("[paired(at) -> false]",),
    },
    "the pair, then both lanes again: the same numbers": {
        ("Block of half2", "copy"): ("[else -> ]",),
        ("Block of half2", "store"): ("[else -> ]",),
    },
    "through the room, which is right and slower": {
        ("Block of the CPU", "whole"): ("return i + LANES [<= -> <] n",),
        ("Block of the CPU", "load"): (
            "[whole() -> false]",
            "[return from + begin + i -> ]",
        ),
    },
    "lanes behind the last neuron are not stored": {
        ("Block of the CPU", "load"): ("copy(room, from, begin, [0.0f -> 1.0f])",),
    },
    "copied onto itself, which changes nothing and is slower": {
        ("Block of the CPU", "store"): (
            "[to + begin + i != from -> true]",
            "to [+ -> -] begin + i != from",
            "to + begin [+ -> -] i != from",
            "to + [begin -> i] + i != from",
            "to + begin + [i -> 0] != from",
        ),
    },
    "at the joints 0 and 1 both pieces have this value": {
        ("rectifier", "rectified_over_half"): (
            "return (tanhf(3.0f * ((h [< -> <=] 0.0f ? 0.0f : (h > 1.0f ? 1.0f : h)) -",
            "rn (tanhf(3.0f * ((h < 0.0f ? 0.0f : (h [> -> >=] 1.0f ? 1.0f : h)) - 0.5f)) / 1.81029650",
            "1.8102965072897328f + (cbrtf(1.0f + (h [> -> >=] 1.0f ? h - 1.0f : 0.0f)) - cbrtf(1.0f +",
            "f ? h - 1.0f : 0.0f)) - cbrtf(1.0f + (h [< -> <=] 0.0f ? -h : 0.0f))))",
        ),
        ("rectifier", "rectify_gradient"): (
            "1.0f) * 3.0f * (1.0f - tanhf(3.0f * ((h [< -> <=] 0.0f ? 0.0f : (h > 1.0f ? 1.0f : h)) -",
            "f - tanhf(3.0f * ((h < 0.0f ? 0.0f : (h [> -> >=] 1.0f ? 1.0f : h)) - 0.5f)) * tanhf(3.0f",
            "1.0f : h)) - 0.5f)) * tanhf(3.0f * ((h [< -> <=] 0.0f ? 0.0f : (h > 1.0f ? 1.0f : h)) -",
            ") * tanhf(3.0f * ((h < 0.0f ? 0.0f : (h [> -> >=] 1.0f ? 1.0f : h)) - 0.5f))) / 1.8102965",
            "1.0f : 0.0f) / (3.0f * cbrtf(1.0f + (h [> -> >=] 1.0f ? h - 1.0f : 0.0f) + (h < 0.0f ? -",
            ".0f + (h > 1.0f ? h - 1.0f : 0.0f) + (h [< -> <=] 0.0f ? -h : 0.0f)) * cbrtf(1.0f + (h >",
            "< 0.0f ? -h : 0.0f)) * cbrtf(1.0f + (h [> -> >=] 1.0f ? h - 1.0f : 0.0f) + (h < 0.0f ? -",
            ".0f + (h > 1.0f ? h - 1.0f : 0.0f) + (h [< -> <=] 0.0f ? -h : 0.0f))))",
        ),
    },
    "outside [0, 1] the factor of this tanh is 0": {
        ("rectifier", "rectify_gradient"): (
            ".0f * (1.0f - tanhf(3.0f * ((h < 0.0f ? [0.0f -> 1.0f] : (h > 1.0f ? 1.0f : h)) - 0.5f)) * tan",
            "- tanhf(3.0f * ((h < 0.0f ? 0.0f : (h > [1.0f -> 2.0f] ? 1.0f : h)) - 0.5f)) * tanhf(3.0f * ((",
            "(3.0f * ((h < 0.0f ? 0.0f : (h > 1.0f ? [1.0f -> 0.0f] : h)) - 0.5f)) * tanhf(3.0f * ((h < 0.0",
            "(3.0f * ((h < 0.0f ? 0.0f : (h > 1.0f ? [1.0f -> 2.0f] : h)) - 0.5f)) * tanhf(3.0f * ((h < 0.0",
            ")) - 0.5f)) * tanhf(3.0f * ((h < 0.0f ? [0.0f -> 1.0f] : (h > 1.0f ? 1.0f : h)) - 0.5f))) / 1.",
            "* tanhf(3.0f * ((h < 0.0f ? 0.0f : (h > [1.0f -> 2.0f] ? 1.0f : h)) - 0.5f))) / 1.810296507289",
            "(3.0f * ((h < 0.0f ? 0.0f : (h > 1.0f ? [1.0f -> 0.0f] : h)) - 0.5f))) / 1.8102965072897328f +",
            "(3.0f * ((h < 0.0f ? 0.0f : (h > 1.0f ? [1.0f -> 2.0f] : h)) - 0.5f))) / 1.8102965072897328f +",
        ),
    },
    "within [0, 1] the root divides 0, and is not 0 itself": {
        ("rectifier", "rectify_gradient"): (
            "f + (h > 1.0f ? h - 1.0f : 0.0f) + (h < [0.0f -> 1.0f] ? -h : 0.0f)) * cbrtf(1.0f + (h > 1.0f",
            "f + (h > 1.0f ? h - 1.0f : 0.0f) + (h < [0.0f -> 1.0f] ? -h : 0.0f))))",
        ),
    },
    "1 - |x| / V_th is 0 on the edge": {
        ("Triangular", "surrogate_gradient"): (
            "st float slope = (fabsf(over_threshold) [< -> <=] 0.75f ? 1.5f * (1.0f - fabsf(over_thres",
        ),
    },
}
#: The survivors, each with the reason why it is right.
JUSTIFIED = {
    (*place, change): reason
    for reason, places in _REASONS.items()
    for place, changes in places.items()
    for change in changes
}


def complaints(chosen: tuple[Mutant, ...], found: list[str]) -> list[str]:
    """Survivors without a reason, and reasons without a survivor."""
    survivors = [mutant.key for mutant, outcome in zip(chosen, found, strict=True) if outcome == "survived"]
    unjustified = [f"survived without a reason: {key}" for key in survivors if key not in JUSTIFIED]
    return unjustified + [f"justified, but no survivor: {key}" for key in JUSTIFIED if key not in survivors]


# --- report ---

#: Columns; which of the two a wild index or an endless loop ends in is chance.
_COLUMNS = {"compile": "compile", "crash": "crash or hang", "hang": "crash or hang"}
_COLUMNS |= {"numbers": "numbers", "survived": "survived"}


def markdown(chosen: tuple[Mutant, ...], found: list[str]) -> str:
    """The counts, and the survivors with their reasons."""
    columns = tuple(dict.fromkeys(_COLUMNS.values()))
    lines = [
        "# Mutants of the CUDA kernels",
        "",
        "From `python tests/neuron/mutate_kernels.py --output benchmarks/mutations.md`. Every statement of the text",
        "that the kernels are made of is changed in turn; the columns say how the change was noticed.",
        "",
        "| text | statements | mutants | " + " | ".join(columns) + " |",
        "|" + "---|" * (3 + len(columns)),
    ]
    rows = [*((source, {source}) for source in sources()), ("all", set(sources()))]
    for title, included in rows:
        counts = Counter(
            _COLUMNS[o] for mutant, o in zip(chosen, found, strict=True) if mutant.statement.source in included
        )
        split = sum(s.source in included and s.kind != "signature" for s in statements())
        cells = [title, split, sum(counts.values()), *(counts[column] for column in columns)]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    lines += ["", "Survivors, and why each is right:", "", "| text | function | change | reason |", "|---|---|---|---|"]
    for mutant, outcome in zip(chosen, found, strict=True):
        if outcome == "survived":
            source, where, label = mutant.key
            cells = (source, where, f"`{label}`", JUSTIFIED.get(mutant.key, "**none**"))
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _progress(total: int) -> Callable[[int], None]:
    begin = time.monotonic()

    def report(done: int) -> None:
        if done % 100 == 0 or done == total:
            past = time.monotonic() - begin
            left = past / done * (total - done)
            print(f"{done} of {total} mutants in {past:.0f} s, about {left:.0f} s left", file=sys.stderr, flush=True)

    return report


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", help="a Markdown file; without it the report is printed")
    parser.add_argument("--jobs", type=int, default=2, help="processes (default: %(default)s)")
    options = parser.parse_args(arguments)
    if why := missing():
        parser.error(why)
    found = outcomes(mutants(), options.jobs, _progress(len(mutants())))
    report = markdown(mutants(), found)
    if options.output:
        write_atomically(options.output, report.encode())
    else:
        print(report)
    wrong = complaints(mutants(), found)
    print(*wrong, sep="\n", end="\n" if wrong else "", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
