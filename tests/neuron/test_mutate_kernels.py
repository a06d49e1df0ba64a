"""The script that changes every statement of the kernels: it finds them all, and its checks see what is wrong."""

import itertools
import re

import mutate_kernels
import numpy as np
import pytest
from mutate_kernels import JUSTIFIED, KERNELS, PUNCTUATION, Region, complaints, mutants, sources, statements, tokens

needs_compiler = pytest.mark.skipif(mutate_kernels.missing() is not None, reason=str(mutate_kernels.missing()))


def found(source, where, label):
    (mutant,) = (mutant for mutant in mutants() if mutant.key == (source, where, label))
    return mutant


# --- the text ---


@pytest.mark.parametrize("source", sources())
def test_no_character_of_code_is_outside_the_statements(source):
    """What stands between them is braces, semicolons, and the words and brackets of headers."""
    parts = [statement for statement in statements() if statement.source == source]
    ends = [0, *(statement.end for statement in parts)]
    begins = [*(statement.begin for statement in parts), len(sources()[source])]
    assert all(end <= begin for end, begin in zip(ends, begins, strict=True))
    between = "\n".join(sources()[source][end:begin] for end, begin in zip(ends, begins, strict=True))
    assert {token.text for token in tokens(between)} <= set(PUNCTUATION)


@pytest.mark.parametrize("name", KERNELS)
def test_the_sources_are_all_of_a_kernels_text(name):
    """But for the signature, which is generated, macros, and the constants of other forms."""
    code = KERNELS[name].code
    for source in sources().values():
        code = code.replace(source, "")
    code = re.sub(r"constexpr (int SEGMENT|bool \w+) = \w+;", "", code)
    code = re.sub(r"INLINE float (surrogate_gradient|rectif\w+)\((.|\n)*?\}", "", code)
    code = re.sub(r'(extern "C" __global__\s*)?void node_\w+\([^)]*\)', "", code)
    if KERNELS[name].dtype == "CPU":  # the loop over blocks, replaced
        code = code.replace("const long long i = LANES * (long long)blockIdx.x", "")
    assert {token.text for token in tokens(code)} <= set("{};")


def test_conditions_loops_and_returns_are_statements_and_comments_are_none():
    kinds = {(s.kind, s.text) for s in statements() if s.source == "kernels.h"}
    assert {
        ("condition", "checkpoints && t > 0 && t % SEGMENT == 0"),
        ("initialiser", "int segment = (T - 1) / SEGMENT"),
        ("step", "segment--"),
        ("macro", "EACH_LANE"),
        ("else", "else"),
        ("expression", "continue"),
        ("return", "return h - d.reset * spike"),
        ("declaration", "const Block block = {i, n}"),
        ("declaration", "float decay, v_th, reset"),
    } <= kinds
    assert not any("//" in statement.text or "#" in statement.text for statement in statements())


def test_every_statement_has_a_mutant_and_no_two_are_the_same():
    changed = {mutant.statement for mutant in mutants()}
    assert [s.text for s in statements() if s not in changed and s.kind != "signature"] == []
    for one, two in itertools.pairwise(sorted((m.statement.source, m.text()) for m in mutants())):
        assert one != two
    assert len({mutant.key for mutant in mutants()}) == len(mutants())


def test_the_operators_on_one_statement():
    labels = {m.label for m in mutants() if m.statement.text == "return h - d.reset * spike"}
    assert labels == {
        "[return h - d.reset * spike -> ]",
        *("return h [- -> +] d.reset * spike", "return h - d.reset [* -> /] spike"),
        *("return [h -> spike] - d.reset * spike", "return h - d.reset * [spike -> h]"),
        *("return h - d.[reset -> v_th] * spike", "return h - d.[reset -> decay] * spike"),
    }


def test_values_operands_and_parameters_change_places():
    labels = {(m.operator, m.label) for m in mutants()}
    assert ("branches_swapped", "rn (STRICT ? h > d.v_th : h >= d.v_th) ?[ 1.0f : 0.0f -> 0.0f : 1.0f]") in labels
    assert ("operands_left_out", "checkpoints && [t > 0 && -> ]t % SEGMENT == 0") in labels
    assert ("neighbours_swapped", "float [decay, v_th -> v_th, decay], reset") in labels
    assert any(kind == "neighbours_swapped" and "[x, float v -> v, float x]" in label for kind, label in labels)


# --- memory ---


@pytest.mark.parametrize(("offset", "expected"), [(-1, False), (0, True), (2, True), (3, False)])
def test_a_store_beside_an_array_is_seen(offset, expected):
    """Three numbers, of 1, and two bytes behind them; one of the four places that are written is outside."""
    region = Region(np.ones(3, np.float16), is_output=True, slack=2)
    whole = np.frombuffer(region._rows[0]._bytes, np.float16)
    whole[-4:-1] = 1
    whole[-4 + offset] = 1
    assert region.is_right() == expected


def test_an_input_stays_as_it_is():
    region = Region(np.ones(3, np.float32), is_output=False)
    assert region.is_right()
    region._rows[0]._bytes[-1] = 0
    assert not region.is_right()


# --- running ---

KNOWN = {
    ("kernels.h", "charge", "return fmaf(d.[decay -> v_th], v, x)"): "numbers",
    ("kernels.h", "fire", "return (STRICT ? h > d.v_th : h [>= -> >] d.v_th) ? 1.0f : 0.0f"): "numbers",
    ("kernels.h", "fire", "return (STRICT ? h [> -> >=] d.v_th : h >= d.v_th) ? 1.0f : 0.0f"): "numbers",
    ("kernels.h", "forward_block", "[t++ -> ]"): "hang",
    ("Block of half2", "paired", "return [both() && -> ](size_t)at % sizeof(half2) == 0"): "numbers or crash",
    ("Block of half2", "paired", "return both() [&& (size_t)at % sizeof(half2) == 0 -> ]"): "crash",
    ("Block of half2", "copy", "[both() -> true]"): "crash",
    ("Block of float", "Block of float", "[typedef float Stored -> ]"): "compile",
    ("index", "index", "const long long i = LANES * ([(long long) -> ]blockIdx.x * blockDim.x + threadIdx.x)"): "crash",
    ("kernels.h", "backward_block", "[UNROLLED -> ]"): "survived",
}


@needs_compiler
def test_what_is_wrong_is_caught_and_what_is_right_survives():
    chosen = tuple(found(*key) for key in KNOWN)
    outcomes = mutate_kernels.outcomes(chosen, jobs=2)
    assert all(outcome in KNOWN[mutant.key] for mutant, outcome in zip(chosen, outcomes, strict=True)), outcomes


@needs_compiler
def test_one_mutant_of_each_function_is_caught():
    """The second one of each, since the first often leaves all out; the script itself runs every one."""
    functions = {}
    for mutant in mutants():
        if mutant.statement.source == "kernels.h" and mutant.statement.kind != "signature":
            functions.setdefault(mutant.statement.where, []).append(mutant)
    assert set(functions) == {
        "Dynamics",
        "charge",
        "fire",
        "reset",
        "slope_at",
        "kept",
        "forward_block",
        "backward_block",
    }
    chosen = tuple(next(m for m in several[1:] if m.key not in JUSTIFIED) for several in functions.values())
    assert "survived" not in mutate_kernels.outcomes(chosen, jobs=2)


@needs_compiler
def test_a_kernel_that_is_wrong_before_any_change_is_no_success(monkeypatch):
    broken = sources()["kernels.h"].replace("h - d.reset * spike", "h + d.reset * spike")
    monkeypatch.setattr(mutate_kernels.kernel_code, "_kernels", lambda: broken)
    chosen = found("kernels.h", "reset", "return h [- -> +] d.reset * spike")
    with pytest.raises(AssertionError, match="wrong before anything is changed"):
        mutate_kernels.outcomes((chosen,), jobs=1)


# --- the report ---


def test_a_survivor_without_a_reason_and_a_reason_without_a_survivor_are_complaints():
    outcomes = ["survived" if mutant.key in JUSTIFIED else "numbers" for mutant in mutants()]
    assert complaints(mutants(), outcomes) == []
    justified = next(i for i, mutant in enumerate(mutants()) if mutant.key in JUSTIFIED)
    caught = next(i for i, mutant in enumerate(mutants()) if mutant.key not in JUSTIFIED)
    outcomes[justified], outcomes[caught] = "numbers", "survived"
    assert complaints(mutants(), outcomes) == [
        f"survived without a reason: {mutants()[caught].key}",
        f"justified, but no survivor: {mutants()[justified].key}",
    ]


@needs_compiler
@pytest.mark.parametrize("status", [0, 1])
def test_the_command_writes_the_report_and_fails_on_a_complaint(monkeypatch, tmp_path, capsys, status):
    outcomes = ["survived" if mutant.key in JUSTIFIED else "numbers" for mutant in mutants()]
    if status:
        outcomes[0] = "survived"
    monkeypatch.setattr(mutate_kernels, "outcomes", lambda *arguments: outcomes)
    assert mutate_kernels.main(["--output", str(tmp_path / "report.md")]) == status
    report = (tmp_path / "report.md").read_text()
    assert f"| all | {sum(s.kind != 'signature' for s in statements())} | {len(mutants())} |" in report
    assert all(reason.replace("|", "\\|") in report for reason in JUSTIFIED.values())
    assert ("survived without a reason" in capsys.readouterr().err) == bool(status)
