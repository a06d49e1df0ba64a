"""A CUDA kernel's text, where SpikingJelly has no ``CKernel2D``: the line 2.x."""

from collections.abc import Mapping

__all__ = ["KernelText"]


class KernelText:
    """In place of ``CKernel2D`` what :class:`~jellyplus.neuron.cupy_backend.NodeKernel` takes from it: a kernel's text.

    Args:
        kernel_name: the function's name in CUDA.
    """

    head: str
    core: str
    tail: str

    def __init__(self, kernel_name: str):
        self.kernel_name = kernel_name
        self.cparams: dict[str, str] = {}

    def add_param(self, ctype: str, cname: str) -> None:
        """A parameter's C type and name."""
        self.cparams[cname] = ctype

    def check_keys(self, arguments: Mapping) -> None:
        """Raise ValueError where ``arguments`` and the parameters have not the same names."""
        if different := arguments.keys() ^ self.cparams.keys():
            raise ValueError(f"arguments and parameters of {self.kernel_name} differ: {sorted(different)}")

    @property
    def declaration(self) -> str:
        """The signature, its parameters in the order of their names."""
        parameters = ", ".join(f"{ctype} {cname}" for cname, ctype in sorted(self.cparams.items()))
        return f'\n#include <cuda_fp16.h>\nextern "C" __global__ void {self.kernel_name}({parameters})\n'

    @property
    def full_codes(self) -> str:
        """All of the text."""
        return "\n".join([self.declaration, self.head, self.core, self.tail])
