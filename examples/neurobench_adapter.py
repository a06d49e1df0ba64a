"""NeuroBench's harness on a network of our nodes, of version 2.3.0; it needs ``pip install neurobench``.

NeuroBench gives batches [N, T, *] and counts what its hooks see, so the adapter resets and puts time first. Its
``Effective_ACs`` are then the additions of :class:`jellyplus.op_counter.OperationCounter` in layers fed by spikes, its
``Effective_MACs`` the multiplications and its ``Dense`` the MACs, all of them under ``Convention(padded_taps=False)``,
as long as no weight and no number that a multiplying layer is fed is exactly zero: those NeuroBench leaves out. Its
``ActivationSparsity`` is one minus the firing rate. ``MembraneUpdates`` and ``NeuronOperations`` know snnTorch's
neurons alone.
"""

from neurobench.models import TorchModel

from jellyplus import functional, neuron


class JellyplusModel(TorchModel):
    """A network in step mode 'm' as NeuroBench's model: [N, T, *] to [N, T, classes].

    Args:
        net: takes [T, N, *].
    """

    def __init__(self, net):
        super().__init__(net)
        self.add_activation_module(neuron.Node)

    def __call__(self, batch):
        functional.reset_net(self.net)
        return self.net(batch.transpose(0, 1)).transpose(0, 1)
