"""Network architectures of the papers; neuron and norm arrive as factories."""

from jellyplus.model.resnet import ResNet, ann_resnet18, dspike_resnet18

__all__ = ["ResNet", "ann_resnet18", "dspike_resnet18"]
