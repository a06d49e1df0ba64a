"""What is compiled: the kernels, the sources that their text is made of, and which kernels show a change to which."""

import functools
import re
from typing import NamedTuple

import torch

from jellyplus import surrogate
from jellyplus.neuron import cpp_backend, cupy_backend, kernel_code


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
        return int(re.search(r"constexpr int LANES = (\d+);", self.code)[1])


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
    "input": ("forward hard", "backward hard"),
    "give": ("backward hard",),
    "forward_block": ("forward hard", "forward half2", "forward CPU"),
    "backward_block": ("backward hard", "backward half2", "backward CPU"),
    "Block of float": ("forward hard", "backward hard"),
    "Block of half2": ("forward half2", "backward half2"),
    "Block of the CPU": ("forward CPU", "backward CPU"),
    "index": ("forward hard", "forward half2", "backward hard"),
    "call forward": ("forward hard", "forward CPU"),
    "call backward": ("backward hard", "backward CPU"),
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
