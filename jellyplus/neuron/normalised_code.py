"""The C++ text of the kernels that run a norm, too: what ``normalised.h`` is called with."""

from pathlib import Path

from jellyplus.neuron import kernel_code

__all__ = ["BODIES", "PARAMETERS", "SOURCE"]

SOURCE = Path(__file__).with_name("normalised.h")
_NORM = {
    "C": "const long long",
    "norm": "float *",
    "factor": "const float",
    "beside": "const float *",
}
#: The kernels' arguments by name, and their C types, as :data:`kernel_code.PARAMETERS`.
PARAMETERS = {
    "forward": kernel_code.PARAMETERS["forward"]
    | _NORM
    | {
        "in_training": "const int",
        "weight": "const float *",
        "bias": "const float *",
        "eps": "const float",
        "momentum": "const float",
        "running_mean": "float *",
        "running_var": "float *",
    },
    "backward": kernel_code.PARAMETERS["backward"]
    | _NORM
    | {"grad_norm_x_seq": "float *", "grad_weight": "float *", "grad_bias": "float *"},
}
_TABLES = """
    const Table scale(C, [&](long long c) { return norm[c]; });
    const Table shift(C, [&](long long c) { return norm[C + c]; });
    const Table mean(C, [&](long long c) { return norm[2 * C + c]; });
"""
_BLOCK = "Normalised{{i, n}, scale.at(i, C), shift.at(i, C), mean.at(i, C), beside, own}"
#: What each of them does.
BODIES = {
    "forward": f"""
    prepare(in_training, n, T, x_seq, C, weight, bias, factor, eps, momentum, running_mean, running_var, norm, threads);
    {_TABLES}
    float *own = nullptr;
    PARALLEL EACH_BLOCK(n) {kernel_code.call("forward", _BLOCK)}
""",
    "backward": f"""
    {_TABLES}
    Sums sums(C, threads);
    PARALLEL EACH_BLOCK(n) {{
        float own[2 * LANES] = {{}};
        {kernel_code.call("backward", _BLOCK)}
        double *first = sums.at(0, i), *second = sums.at(1, i);
        EACH_LANE {{
            first[lane] += own[lane];
            second[lane] += own[LANES + lane];
        }}
    }}
    float *const grad = grad_norm_x_seq ? grad_norm_x_seq : grad_x_seq;  // of x
    differentiate(n, T, x_seq, C, norm, factor, sums, grad_x_seq, grad, grad_weight, grad_bias, threads);
""",
}
