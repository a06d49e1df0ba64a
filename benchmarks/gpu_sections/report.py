"""The records as Markdown: what was measured, on which card and when, and what was not."""

import signal
from collections.abc import Callable, Iterable, Sequence
from typing import Any

__all__ = ["markdown"]

Record = dict[str, Any]

_DRY = "**Dry run: the CPU with a stand-in for the card and tiny sizes. No number here means anything.**"


def markdown(records: Sequence[Record]) -> str:
    """All sections, as far as there is something to say.

    Args:
        records: of one file, measured or of dry runs.
    """
    dry = any(record["dry_run"] for record in records)
    parts = [f"# {'Dry run, not a GPU' if dry else 'On a GPU'}", *([_DRY] if dry else [])]
    for title, write in _SECTIONS.items():
        if text := "\n\n".join(filter(None, write(records))):
            parts.append(f"## {title}{' (dry run)' if dry else ''}\n\n{text}")
    return "\n\n".join(parts) + "\n"


def _table(rows: Iterable[dict[str, object]]) -> str:
    """Rows that all have the same columns."""
    rows = [{name: _cell(value) for name, value in row.items()} for row in rows]
    if not rows:
        return ""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "**no**"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return "" if value is None else str(value).replace("|", "/").replace("\n", " ")


def _with(records: Sequence[Record], key: str) -> list[Record]:
    return [record for record in records if key in record]


def _card(records: Sequence[Record]) -> list[str]:
    begun = [f"`{record['command']}`, begun {record['begun']}" for record in _with(records, "begun")]
    card = [f"Card: {record['card']}. Machine: {record['machine']}." for record in _with(records, "card")]
    versions = [
        f"Commit {record['commit'][:12]}{', dirty' if record['dirty'] else ''}; "
        + ", ".join(f"{name} {version}" for name, version in record["versions"].items())
        for record in _with(records, "versions")
    ]
    doctor = [f"```\n{record['doctor'].strip()}\n```" for record in _with(records, "doctor")]
    return ["\n".join(f"* {line}" for line in dict.fromkeys([*begun, *card, *versions])), *doctor[-1:]]


def _right(records: Sequence[Record]) -> list[str]:
    matrix = _with(records, "comparisons")
    rows = []
    for dtype in dict.fromkeys(record["dtype"] for record in matrix):
        for side in ("cupy", "torch"):
            found = [record for record in matrix if record["dtype"] == dtype]
            rows.append(
                {
                    "backend": side,
                    "dtype": dtype,
                    "node and surrogate pairs": len(found),
                    "comparisons": sum(record["comparisons"] for record in found),
                    "spikes": sum(record["spikes"] for record in found),
                    "flips": sum(record[side]["flips"] for record in found),
                    "not rounding": sum(record[side]["unexplained"] for record in found),
                    "largest error / tolerance": max(record[side]["error"] for record in found),
                    "right": all(not record[side]["unexplained"] and record[side]["error"] <= 1 for record in found),
                }
            )
    wrong = [
        {"node": r["node"], "surrogate": r["surrogate"], "dtype": r["dtype"], "cupy": r["cupy"], "torch": r["torch"]}
        for r in matrix
        if any(r[side]["unexplained"] or r[side]["error"] > 1 for side in ("cupy", "torch"))
    ]
    cases = [
        {
            "case": record["case"],
            "dtype": record.get("dtype"),
            "right": record["right"],
            "compilations": record.get("compilations"),
            "synchronisations": record.get("synchronisations"),
        }
        for record in _with(records, "case")
    ]
    stated = (
        "Against SpikingJelly's step-by-step loop under autograd on the CPU, two calls with the state carried over; "
        "tolerances and what a flip is: `gpu_sections/right.py`."
    )
    trained = [
        {
            "row of the comparison": r["method"],
            "loss": r["loss"],
            "on the CPU": r["loss_on_cpu"],
            "weights from CUDA graphs are equal": r["graphed_equal"],
        }
        for r in _with(records, "method")
    ]
    said = "Six steps of training by every method, on random images:" if trained else ""
    return [stated if matrix else "", _table(rows), _table(wrong), _table(cases), said, _table(trained)]


def _nodes(records: Sequence[Record]) -> list[str]:
    host = {record["side"]: record for record in _with(records, "host_both_us")}
    joined: dict[tuple, Record] = {}
    for record in _with(records, "shape"):
        joined.setdefault((record["side"], str(record["shape"]), record["dtype"]), {}).update(record)
    timed = _with(list(joined.values()), "copy_gb_s")
    tables = []
    for shape, dtype in dict.fromkeys((tuple(record["shape"]), record["dtype"]) for record in timed):
        rows = [
            {
                "side": r["side"],
                "ms": r["ms"],
                "quartiles": " to ".join(map(_cell, r["quartiles"])),
                "share of a copy's bandwidth": None if r["side"] == "ReLU" else r["share"],
                "kernels alone (ms)": r.get("kernel_ms"),
                "their share": None if r["side"] == "ReLU" else r.get("kernel_share"),
                "launches": r.get("launches"),
                "copy (GB/s)": r["copy_gb_s"],
                "peak (MiB)": r["peak_mib"],
                "spikes that differ": r.get("flips"),
                "gradient's error": r.get("gradient_error"),
            }
            for r in timed
            if (tuple(r["shape"]), r["dtype"]) == (shape, dtype)
        ]
        tables += [f"### Node, {list(shape)}, {dtype}, forward + backward", _table(rows)]
    calls = [
        {"side": name, "forward (us)": record["host_forward_us"], "forward + backward (us)": record["host_both_us"]}
        for name, record in host.items()
    ]
    return [*tables, "### What a call costs the host, 32 neurons" if calls else "", _table(calls)]


def _steps(records: Sequence[Record]) -> list[str]:
    timed = _with(records, "neuron")
    relu = {record["network"]: record["ms"] for record in timed if record["neuron"] == "ReLU"}
    rows = [
        {
            "network": r["network"],
            "neuron": r["neuron"],
            "ms": r["ms"],
            "ReLU's time over it": relu[r["network"]] / r["ms"] if r["network"] in relu else None,
            "images/s": r["images_per_s"],
            "launched after (ms)": r["host_ms"],
            "peak (GiB)": r["peak_gib"],
        }
        for r in timed
    ]
    text = ["### Training step, T = 2, batch 128, AMP, channels-last" if rows else "", _table(rows)]
    for r in _with(records, "profiled_ms"):
        waits = ", ".join(f"{name} {_cell(float(number))}" for name, number in r["waits"].items()) or "none"
        text.append(
            f"`{r['network']}`, profiled: {_cell(r['profiled_ms'])} ms a step, {_cell(r['kernel_ms'])} ms of it in "
            f"{_cell(r['launches'])} kernels and copies; calls that wait, a step: {waits}"
        )
        text.append(_table({"kernel": k[:80], "a step": n, "ms a step": ms} for k, n, ms in r["kernels"]))
    return text


def _training(records: Sequence[Record]) -> list[str]:
    loaders = [
        {
            "recipe": r["loader"],
            "augmentation": ", ".join(r["augmentation"]),
            "processes": r["workers"],
            "images/s": r["images_per_s"],
        }
        for r in _with(records, "loader")
    ]
    loops = [
        {"recipe": r["loop"], "batch": r["batch"], "processes": r["workers"], "images/s": r["images_per_s"]}
        for r in _with(records, "epoch_s")
    ]
    waits = [
        f"`{r['loop']}`, calls that wait, of a run of {r['steps']} steps with evaluation and counting, over its steps: "
        + ", ".join(f"{name} {_cell(n)}" for name, n in r["calls_a_step"].items())
        for r in _with(records, "calls_a_step")
    ]
    return [
        "### Loader" if loaders else "",
        _table(loaders),
        "### The training loop, evaluation included" if loops else "",
        _table(loops),
        *waits,
    ]


def _evidence(records: Sequence[Record]) -> list[str]:
    made = _with(records, "overlay")
    rows = [
        {
            "table": r["table"],
            "row": r["row"],
            "recipe": run["recipe_name"],
            "profile": run["profile"],
            "seed": run["seed"],
            "images": run["train_examples"],
            "epochs": f"{run['epochs_completed']} of {run['epochs_planned']}",
            "accuracy (%)": run["accuracy_last"],
            "best (%)": run["accuracy_best"],
            "time (s)": run["wall_time_s"],
            "side by side": r.get("side_by_side", 1),
            "on": run["device"],
        }
        for r in made
        for run in r["runs"]
    ]
    failed = [f"{r['table']}, {r['row']}: {_ended(r['exit_code'])}" for r in made if r["exit_code"]]
    overlays = [f"```\n{r['overlay']}\n```" for r in made if r["overlay"] and not r["exit_code"]]
    said = [f"{record['said']}: {record['left_s']:.0f} s were left" for record in _with(records, "said")]
    return [_table(rows), *failed, *overlays, *said]


def _ended(code: int) -> str:
    return "ended when its time was over" if code == -signal.SIGTERM else f"exit code {code}"


def _ends(records: Sequence[Record]) -> list[str]:
    ends = [
        {"section": r["section"], "part": r["ended"], "how": r["how"], "seconds": r["seconds"]}
        for r in _with(records, "ended")
    ]
    errors = [f"* {record['attempted']}: {record['error']}" for record in _with(records, "error")]
    return [_table(ends), "\n".join(errors)]


_SECTIONS: dict[str, Callable[[Sequence[Record]], list[str]]] = {
    "The card": _card,
    "Right": _right,
    "Fast: the node": _nodes,
    "Fast: a training step": _steps,
    "Fast: training": _training,
    "Evidence": _evidence,
    "How the parts ended": _ends,
}
