"""The script that changes every statement of the kernels: it finds them all, and its checks see what is wrong."""

import itertools
import re

import numpy as np
import pytest
from mutate_kernels import __main__ as command
from mutate_kernels import digest, report, run
from mutate_kernels import statements as parser
from mutate_kernels.kernels import KERNELS, sources
from mutate_kernels.memory import Region
from mutate_kernels.mutants import mutants
from mutate_kernels.statements import statements
from mutate_kernels.survivors import JUSTIFIED, complaints

from jellyplus.neuron import kernel_code

needs_compiler = pytest.mark.skipif(run.missing() is not None, reason=str(run.missing()))


def found(source, function, marked):
    (mutant,) = (m for m in mutants() if (*m.key[:2], m.marked) == (source, function, marked))
    return mutant


def words(text):
    """All but comments and preprocessor lines."""
    return re.findall(r"\w+|[^\w\s]", re.sub(r"(//|#).*", "", text))


# --- the text ---


@pytest.mark.parametrize("source", sources())
def test_no_character_of_code_is_outside_the_statements(source):
    """What stands between them is braces, semicolons, and the words and brackets of headers."""
    parts = [statement for statement in statements() if statement.source == source]
    ends = [0, *(statement.end for statement in parts)]
    begins = [*(statement.begin for statement in parts), len(sources()[source])]
    assert all(end <= begin for end, begin in zip(ends, begins, strict=True))
    between = "\n".join(sources()[source][end:begin] for end, begin in zip(ends, begins, strict=True))
    assert set(words(between)) <= {"{", "}", ";", "if", "for", "(", ")", "template", "<", "class", "Neurons", ">"}


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
    assert set(words(code)) <= set("{};")


def test_conditions_loops_and_returns_are_statements_and_comments_are_none():
    kinds = {(s.kind, s.text) for s in statements() if s.source == "kernels.h"}
    assert {
        ("condition", "checkpoints && t > 0 && t % SEGMENT == 0"),
        ("declaration", "int segment = (T - 1) / SEGMENT"),
        ("step", "segment--"),
        ("macro", "EACH_LANE"),
        ("else", "else"),
        ("expression", "continue"),
        ("return", "return h - d.reset * spike"),
        ("declaration", "const float *x = input(block, x_room, x_seq, t * x_step)"),
        ("declaration", "float decay, v_th, reset"),
    } <= kinds
    assert not any("//" in statement.text or "#" in statement.text for statement in statements())


@pytest.mark.parametrize("text", ["int f( { return 0; }", "int f() { return 0 }", "UNROLLED_TOO for (;;) f();"])
def test_what_the_grammar_does_not_understand_is_no_success(monkeypatch, text):
    monkeypatch.setattr(parser, "sources", lambda: {"broken": text})
    with pytest.raises(ValueError, match="does not understand broken"):
        parser.parsed("broken")


def test_names_stay_when_another_statement_is_edited(monkeypatch):
    before = [(s.function, s.name) for s in statements() if s.source == "kernels.h"]
    edited = sources()["kernels.h"].replace("if (h_seq) ", "if (h_seq && t < T) ")
    monkeypatch.setattr(parser, "sources", lambda: {"kernels.h": edited})
    after = [(s.function, s.name) for s in parser._of("kernels.h")]
    assert set(before) - set(after) == {("forward_block", "h_seq")}
    assert set(after) - set(before) == {("forward_block", "h_seq && t < T")}
    assert len(set(before)) == len(before)


def test_every_statement_has_a_mutant_and_no_two_are_the_same():
    changed = {mutant.statement for mutant in mutants()}
    assert [s.text for s in statements() if s not in changed and s.kind != "signature"] == []
    for one, two in itertools.pairwise(sorted((m.statement.source, m.text) for m in mutants())):
        assert one != two
    assert len({mutant.key for mutant in mutants()}) == len(mutants())


def test_the_operators_on_one_statement():
    labels = {m.marked for m in mutants() if m.statement.text == "return h - d.reset * spike"}
    assert labels == {
        "[return h - d.reset * spike -> ]",
        *("return h [- -> +] d.reset * spike", "return h - d.reset [* -> /] spike"),
        *("return [h -> spike] - d.reset * spike", "return h - d.reset * [spike -> h]"),
        *("return h - d.[reset -> v_th] * spike", "return h - d.[reset -> decay] * spike"),
    }


def test_values_operands_and_parameters_change_places():
    labels = {(m.operator, m.marked) for m in mutants()}
    fire = "return (STRICT ? h > d.v_th : h >= d.v_th) ? [1.0f : 0.0f -> 0.0f : 1.0f]"
    assert ("branches_swapped", fire) in labels
    assert ("operands_left_out", "checkpoints[ && t > 0 -> ] && t % SEGMENT == 0") in labels
    assert ("operands_left_out", "[checkpoints && -> ]t > 0 && t % SEGMENT == 0") in labels
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
    ("Block of half2", "paired", "return both()[ && (size_t)at % sizeof(half2) == 0 -> ]"): "crash",
    ("Block of half2", "copy", "[both() -> true]"): "crash",
    ("Block of float", "Block of float", "[typedef float Stored -> ]"): "compile",
    ("index", "index", "const long long i = LANES * ([(long long) -> ]blockIdx.x * blockDim.x + threadIdx.x)"): "crash",
    ("kernels.h", "backward_block", "[UNROLLED -> ]"): "survived",
}


@needs_compiler
def test_what_is_wrong_is_caught_and_what_is_right_survives():
    chosen = tuple(found(*key) for key in KNOWN)
    outcomes = run.outcomes(chosen, jobs=2)
    assert all(outcome in known for known, outcome in zip(KNOWN.values(), outcomes, strict=True)), outcomes


@needs_compiler
def test_one_mutant_of_each_function_is_caught():
    """The second one of each, if there is one, since the first often leaves all out; the script itself runs all."""
    functions = {}
    for mutant in mutants():
        if mutant.statement.source == "kernels.h" and mutant.statement.kind != "signature":
            functions.setdefault(mutant.statement.function, []).append(mutant)
    assert set(functions) == {
        "Dynamics",
        "charge",
        "fire",
        "reset",
        "slope_at",
        "kept",
        "input",
        "give",
        "forward_block",
        "backward_block",
    }
    chosen = tuple(next(m for m in several[1:] or several if m.key not in JUSTIFIED) for several in functions.values())
    assert "survived" not in run.outcomes(chosen, jobs=2)


@needs_compiler
def test_a_kernel_that_is_wrong_before_any_change_is_no_success(monkeypatch):
    broken = sources()["kernels.h"].replace("h - d.reset * spike", "h + d.reset * spike")
    monkeypatch.setattr(kernel_code, "_kernels", lambda: broken)
    chosen = found("kernels.h", "reset", "return h [- -> +] d.reset * spike")
    with pytest.raises(AssertionError, match="wrong before anything is changed"):
        run.outcomes((chosen,), jobs=1)


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


def as_recorded(wrong=False):
    outcomes = ["survived" if mutant.key in JUSTIFIED else "numbers" for mutant in mutants()]
    return ["survived", *outcomes[1:]] if wrong else outcomes


@needs_compiler
@pytest.mark.parametrize("status", [0, 1])
def test_the_command_writes_the_report_and_fails_on_a_complaint(monkeypatch, tmp_path, capsys, status):
    monkeypatch.setattr(run, "outcomes", lambda *arguments: as_recorded(wrong=bool(status)))
    assert command.main(["--output", str(tmp_path / "report.md")]) == status
    text = (tmp_path / "report.md").read_text()
    assert f"| all | {sum(s.kind != 'signature' for s in statements())} | {len(mutants())} |" in text
    assert all(reason.replace("|", "\\|") in text for reason in JUSTIFIED.values())
    assert all(m.marked.replace("|", "\\|") in text for m in mutants() if m.key in JUSTIFIED)
    assert ("survived without a reason" in capsys.readouterr().err) == bool(status)
    assert (digest.digest() in text) == (status == 0)


# --- what was recorded


def test_nothing_is_run_where_nothing_has_changed(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(command, "RECORDED", tmp_path / "mutations.md")
    monkeypatch.setattr(run, "outcomes", None)
    command.RECORDED.write_text(report.markdown(mutants(), as_recorded()))
    assert command.main(["--check"]) == 0
    assert "nothing changed since" in capsys.readouterr().out


@needs_compiler
@pytest.mark.parametrize("wrong", [False, True])
def test_what_has_changed_is_run_and_must_be_recorded(monkeypatch, tmp_path, capsys, wrong):
    monkeypatch.setattr(command, "RECORDED", tmp_path / "mutations.md")
    monkeypatch.setattr(run, "outcomes", lambda *arguments: as_recorded(wrong))
    command.RECORDED.write_text(report.markdown(mutants(), as_recorded()).replace(digest.digest(), "0" * 16))
    assert command.main(["--check"]) == 1
    errors = capsys.readouterr().err
    assert "run this with --output to record it" in errors
    assert ("survived without a reason" in errors) == wrong


def test_the_digest_is_of_the_kernels_and_of_their_checks(monkeypatch, tmp_path):
    before = digest.digest()
    assert re.fullmatch("[0-9a-f]{16}", before)
    with monkeypatch.context() as patch:
        patch.setattr(kernel_code, "_kernels", lambda: sources()["kernels.h"] + " ")
        assert digest.digest() != before
    assert digest.digest() == before
    assert {"run.py", "survivors.py", "cuda_fp16.h"} <= {path.name for path in digest._files()}
    (tmp_path / "check.py").write_text("")
    monkeypatch.setattr(digest, "_FOLDERS", (*digest._FOLDERS, tmp_path))
    assert digest.digest() != before
