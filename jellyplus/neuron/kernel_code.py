"""The C++ text of a node's kernels: ``kernels.h`` with its constants and its surrogate gradient put in front."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from jellyplus.neuron import rectifier
from jellyplus.neuron.dynamics import Dynamics

__all__ = ["BFLOAT16", "PARAMETERS", "SEGMENT", "Form", "body", "call"]

SEGMENT = 8  #: time-steps that backward charges again at once: their H is all that it holds

#: bfloat16 in memory, under the names of CUDA's cuda_bf16.h, which CuPy does not bring along as it does cuda_fp16.h. It
#: is the upper half of a float; to nearest, ties to even, and a NaN stays one, as in torch.
BFLOAT16 = """
struct bfloat16 {
    unsigned short bits;
};
INLINE float __bfloat162float(bfloat16 b) { return __uint_as_float((unsigned)b.bits << 16); }
INLINE bfloat16 __float2bfloat16_rn(float f) {
    const unsigned bits = __float_as_uint(f);
    return {(unsigned short)(f != f ? 32704 : (bits + 32767 + (bits >> 16) % 2) >> 16)};
}
"""

_SOURCE = Path(__file__).with_name("kernels.h")

_COMMON = {
    "n": "const long long",
    "T": "const int",
    "decay": "const float",
    "v_th": "const float",
    "reset_to": "const float",
    "v_start": "const float",
    "v_init": "const Stored *",
    "x_seq": "const Stored *",
    "x_step": "const long long",
}
#: The kernels' arguments by name, and their C types.
PARAMETERS = {
    "forward": _COMMON
    | {
        "spike_seq": "Stored *",
        "v_last": "Stored *",
        "h_seq": "Stored *",
        "v_seq": "Stored *",
        "checkpoints": "float *",
    },
    "backward": _COMMON
    | {
        "checkpoints": "const float *",
        "surrogate_parameter": "const float *",
        "grad_spike_seq": "const Stored *",
        "grad_spike_step": "const long long",
        "grad_h_seq": "const Stored *",
        "grad_v_seq": "const Stored *",
        "grad_v_last": "const Stored *",
        "grad_x_seq": "Stored *",
    },
}


class Form(NamedTuple):
    """What a kernel is compiled for; every other constant is an argument."""

    hard_reset: bool
    detach_reset: bool
    rectify: bool
    surrogate: str
    strict: bool = False

    @classmethod
    def of(cls, fire: Callable, dynamics: Dynamics) -> "Form":
        """The form of a node.

        Raises:
            ValueError: the surrogate has no CUDA code, or does not fire (``spiking=False``).
        """
        hard = dynamics.v_reset is not None
        return cls(hard, dynamics.detach_reset, dynamics.rectify, _gradient(fire), dynamics.strict)

    def needed_by(self, direction: str) -> "Form":
        """Forward depends on the kind of reset and on what equality does: one kernel serves all surrogates."""
        if direction == "backward":
            return self
        return Form(self.hard_reset, False, False, "const float slope = 0.0f;", self.strict)


def call(direction: str, block: str = "Block{i, n}") -> str:
    """Run the block of neurons that begins at ``i``, from the kernel's own arguments."""
    constants = {"decay", "v_th", "reset_to"}
    rest = ", ".join(name for name in PARAMETERS[direction] if name not in constants)
    return f"{direction}_block({block}, Dynamics{{decay, v_th, reset_to}}, {rest});"


def body(form: Form) -> str:
    """Everything up to the kernels themselves; what the backend sets before it is listed in ``kernels.h``."""
    flags = {"HARD_RESET": form.hard_reset, "DETACH_RESET": form.detach_reset}
    flags |= {"RECTIFY": form.rectify, "STRICT": form.strict}
    return "\n".join(
        [
            f"constexpr int SEGMENT = {SEGMENT};",
            *(f"constexpr bool {name} = {str(value).lower()};" for name, value in flags.items()),
            "INLINE float surrogate_gradient(float over_threshold, const float *surrogate_parameter) {",
            f"    {form.surrogate}",
            "    return slope;",
            "}",
            f"INLINE float rectified_over_half(float h) {{ return {rectifier.cuda_rectified_over_half('h')}; }}",
            f"INLINE float rectify_gradient(float h) {{ return {rectifier.cuda_rectify_gradient('h')}; }}",
            _kernels(),
        ]
    )


@functools.cache
def _kernels() -> str:
    return _SOURCE.read_text()


def _gradient(fire: Any) -> str:
    if not getattr(fire, "spiking", True):
        raise ValueError(f"the kernels fire; {type(fire).__name__}(spiking=False) needs backend='torch'")
    try:
        return fire.cuda_codes(y="const float slope", x="over_threshold", dtype="float")
    except (AttributeError, NotImplementedError) as error:
        name = getattr(fire, "__name__", type(fire).__name__)
        raise ValueError(f"{name} has no CUDA code (cuda_codes): use backend='torch'") from error
