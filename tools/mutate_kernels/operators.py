"""The ways in which a statement is changed."""

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

from tree_sitter import Node

from mutate_kernels.kernels import sources
from mutate_kernels.statements import Statement, declared, statements


class Change(NamedTuple):
    """New text for a part of a source."""

    begin: int
    end: int
    text: str


def _replaced(node: Node, text: str) -> Change:
    return Change(node.start_byte, node.end_byte, text)


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
    """Another operator of the same kind."""
    for node in statement.nodes:
        operator = node.child_by_field_name("operator")
        if node.type in ("binary_expression", "unary_expression", "update_expression"):
            yield from (_replaced(operator, new) for new in _OPERATORS.get(operator.type, ()))


def literals_changed(statement: Statement) -> Iterator[Change]:
    """0 becomes 1, and any other number one less and one more, or the negative positive."""
    for node in statement.nodes:
        if node.type == "number_literal" and statement.kind != "signature":  # sizes in parameters' types stay
            text = node.text.decode()
            value, suffix = float(text.removesuffix("f")), "f" if text.endswith("f") else ""
            values = (1.0,) if value == 0 else (value - 1, value + 1, abs(value))
            yield from (_replaced(node, f"{new if suffix else int(new)}{suffix}") for new in values)


#: Names that may be confused; those are tried that the function knows.
_ALIKE = (
    "x v h spike",
    "slope h by_reset",
    "by_spike direct",
    "grad_v from_v v",
    "grad_x from_spike from_h from_v",
    "v_init x_seq",
    "spike_seq h_seq v_seq v_last checkpoints",
    "grad_spike_seq grad_h_seq grad_v_seq grad_v_last",
    "surrogate_parameter checkpoints",
    "x_room spike_room",
    "to from",
    "begin i",
    "n i x_step grad_spike_step",
    "t T n",
    "first segment s",
    "SEGMENT LANES T",
    "HARD_RESET DETACH_RESET",
    "decay v_th reset_to",
    "blockIdx threadIdx blockDim",
    "tanhf cbrtf expf",
    "rectified_over_half rectify_gradient",
    "true false",
)
_MEMBERS = ("decay v_th reset",)
_GLOBAL = {"HARD_RESET", "DETACH_RESET", "LANES", "blockIdx", "threadIdx", "true", "false", "decay", "v_th", "reset"}
_GLOBAL |= {"tanhf", "cbrtf", "expf", "rectified_over_half", "rectify_gradient"}
#: What else may stand for a name. Nothing: of a call the brackets remain.
_INSTEAD = {
    **dict.fromkeys(("v_start", "otherwise", "over_threshold"), ("0.0f",)),
    **dict.fromkeys(("tanhf", "cbrtf", "expf", "fabsf", "rectified_over_half", "rectify_gradient"), ("",)),
    **{name: (f"!{name}",) for name in ("HARD_RESET", "DETACH_RESET", "RECTIFY", "STRICT")},
    "i": ("0",),
    "at": ("at + 1",),
    "lane": ("0", "(1 - lane)"),
    "LANES": ("1",),
}
_NAMES = ("identifier", "field_identifier", "true", "false")


def names_confused(statement: Statement) -> Iterator[Change]:
    """A related name in place of a name, or another member; where a name is declared, it stays."""
    if statement.kind == "signature":
        return
    known = _GLOBAL | _names(statement.source, statement.function)
    for node in statement.nodes:
        if node.type in _NAMES and node not in node.parent.children_by_field_name("declarator"):
            name = node.text.decode()
            groups = map(str.split, _MEMBERS if node.type == "field_identifier" else _ALIKE)
            alike = (other for group in groups if name in group for other in group if other in known)
            yield from (_replaced(node, new) for new in (*alike, *_INSTEAD.get(name, ())))


@functools.cache
def _names(source: str, function: str) -> frozenset[str]:
    here = (statement for statement in statements() if (statement.source, statement.function) == (source, function))
    return frozenset(node.text.decode() for statement in here for node in statement.nodes if node.type in _NAMES)


def types_narrowed(statement: Statement) -> Iterator[Change]:
    """int for long long, wherever it stands, and for the float of a declaration; or a cast to long long left out."""
    for node in statement.nodes:
        text, kind = node.text.decode(), node.type
        if text == "long long" and kind == "type_descriptor":  # in the brackets of a cast
            yield Change(node.prev_sibling.start_byte, node.next_sibling.end_byte, "")
        elif text == "long long" or (text in ("float", "float2") and statement.kind == "declaration"):
            yield _replaced(node, "int")


def branches_swapped(statement: Statement) -> Iterator[Change]:
    """The values of ``? :`` the other way round."""
    for node in statement.nodes:
        if node.type == "conditional_expression":
            yes, no = node.child_by_field_name("consequence"), node.child_by_field_name("alternative")
            yield Change(yes.start_byte, no.end_byte, f"{no.text.decode()} : {yes.text.decode()}")


def operands_left_out(statement: Statement) -> Iterator[Change]:
    """One side of ``&&`` or ``||``."""
    for node in statement.nodes:
        if node.type == "binary_expression" and node.child_by_field_name("operator").type in ("&&", "||"):
            left, right = node.child_by_field_name("left"), node.child_by_field_name("right")
            yield Change(left.start_byte, right.start_byte, "")
            yield Change(left.end_byte, right.end_byte, "")


def neighbours_swapped(statement: Statement) -> Iterator[Change]:
    """Two parameters of one type, or two members of a struct, in the other order."""
    text = sources()[statement.source]
    for one, two in itertools.pairwise(_neighbours(statement)):
        if one[0] == two[0]:
            between = text[one[1].end_byte : two[1].start_byte]
            new = two[1].text.decode() + between + one[1].text.decode()
            yield Change(one[1].start_byte, two[1].end_byte, new)


def _neighbours(statement: Statement) -> Iterator[tuple[str, Node]]:
    """Each one's type, and its name."""
    for node in statement.nodes:
        if node.type == "field_identifier" and node.parent.type == "field_declaration":
            yield "", node
        elif node.type == "parameter_declaration" and (name := declared(node)).type == "identifier":
            text, begin, end = node.text.decode(), name.start_byte - node.start_byte, name.end_byte - node.start_byte
            yield (text[:begin] + text[end:]).replace("__restrict__ ", ""), name  # which is a promise, and no type


#: In the order of the report.
OPERATORS: tuple[Callable[[Statement], Iterator[Change]], ...] = (
    *(deleted, decided, lanes_left_out, operators_swapped, literals_changed, names_confused, types_narrowed),
    *(branches_swapped, operands_left_out, neighbours_swapped),
)
