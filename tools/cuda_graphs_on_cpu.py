"""A CUDA graph's stand-in on the CPU: operations are noted with their tensors, and done again on the same memory.

As there, Python is not asked again, outputs lie where they lay, and to record does nothing: what was written in place
is put back. Kernels that torch does not dispatch (``cpp``) are not seen.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["Recording", "record"]


class Recording(TorchDispatchMode):
    """Operations, in order."""

    def __init__(self):
        super().__init__()
        self.operations, self.before, self.made = [], {}, set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        for argument, value in zip(func._schema.arguments, args, strict=False):
            written = argument.alias_info and argument.alias_info.is_write
            if written or argument.name.startswith("running_"):  # native_batch_norm says nothing of them
                self._keep(value)
        outputs = func(*args, **kwargs)
        if not all(value.alias_info for value in func._schema.returns):  # a view is where it was
            self.made |= {x.untyped_storage().data_ptr() for x in _tensors(outputs)}
        if "empty" not in func.__name__:  # which writes nothing, and may be given a shape later
            self.operations.append((func, args, kwargs, outputs))
        return outputs

    def _keep(self, value):
        for tensor in _tensors(value):
            if (where := tensor.untyped_storage().data_ptr()) not in self.made | self.before.keys():
                self.before[where] = tensor, tensor.clone()

    def undo(self):
        """Put back what was written."""
        for tensor, value in self.before.values():
            tensor.data.copy_(value)  # which autograd does not notice: on a GPU nothing was written

    def replay(self):
        """Do all of it again."""
        with torch.no_grad():
            for func, args, kwargs, outputs in self.operations:
                for kept, found in zip(_tensors(outputs), _tensors(func(*args, **kwargs)), strict=True):
                    if kept.data_ptr() != found.data_ptr():
                        kept.copy_(found)


def _tensors(tree):
    return [x for x in tree_leaves(tree) if isinstance(x, torch.Tensor)]


def record(function, device, after=None):
    """In the place of :func:`jellyplus.training.graphed.record`."""
    recording = Recording()
    with recording:
        given = function()
    recording.undo()
    return recording, given
