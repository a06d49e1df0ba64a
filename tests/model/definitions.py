"""The architectures as text, and the arithmetic that follows from it: nothing here looks at a module.

A definition starts with the input, ``channels x size``, and goes on layer by layer: ``3x3,128/2`` is a convolution
with 128 channels, a stride of 2 and half its kernel of padding; ``A`` 2x2 average pooling, ``A3/2`` 3x3 with stride 2
and padding; ``G`` global average pooling; ``F256`` a linear layer; ``O10`` the last one; ``[branch | shortcut]*3``
three residual blocks.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple


class Row(NamedTuple):
    """One layer with weights: a convolution, or a linear layer as a 1x1 convolution of one pixel."""

    kernel: int
    before: int
    after: int
    size: int

    @property
    def weights(self):
        return self.kernel**2 * self.before * self.after

    @property
    def macs(self):
        return self.weights * self.size**2


class Architecture(NamedTuple):
    text: str
    parameters: int
    macs: str  # in millions, with as many digits as are known
    arguments: Mapping = MappingProxyType({})
    name: str = ""
    conv_bias: bool = False
    norm: bool = True
    linear_bias: bool = True


def stage(channels, blocks, first, bottleneck=False):
    """``blocks`` residual blocks; ``first`` is the shortcut of the first one and gives its stride."""
    stride = "/2" if "/2" in first or "A" in first else ""
    c, wide = channels, 4 * channels
    if bottleneck:
        start = f"[1x1,{c} 3x3,{c}{stride} 1x1,{wide} | {first}] "
        return start + f"[1x1,{c} 3x3,{c} 1x1,{wide} |]*{blocks - 1} "
    return f"[3x3,{c}{stride} 3x3,{c} | {first}] [3x3,{c} 3x3,{c} |]*{blocks - 1} "


def padded(channels, blocks):
    """A stage whose first shortcut has no layer."""
    return f"[3x3,{channels}/2 3x3,{channels} |] [3x3,{channels} 3x3,{channels} |]*{blocks - 1} "


def four(blocks, shortcut, first=""):
    """64, 128, 256 and 512 channels; ``{}`` in the shortcut are the channels."""
    channels = (64, 128, 256, 512)
    shortcuts = (first, *(shortcut.format(c) for c in channels[1:]))
    return "".join(stage(c, n, s) for c, n, s in zip(channels, blocks, shortcuts, strict=True))


STRIDED, POOLED = "1x1,{}/2", "A 1x1,{}"
VGG = "3x3,64 3x3,64 A 3x3,128 3x3,128 A 3x3,256 3x3,256 3x3,256 A 3x3,512 3x3,512 3x3,512 A 3x3,512 3x3,512 3x3,512 "
RESNET19 = "3x32 3x3,128 " + stage(128, 3, "") + stage(256, 3, "1x1,256/2") + stage(512, 2, "1x1,512/2")
TDBN34 = "".join(stage(c, n, f"1x1,{c}/2") for c, n in ((64, 3), (128, 4), (256, 6), (512, 3)))
TDBN50 = "".join(stage(c, n, f"1x1,{4 * c}/2", True) for c, n in ((64, 3), (128, 4), (256, 6), (512, 3)))


def twice(text):
    """Twice the channels everywhere but in the input and output."""
    return scaled(text, 2, 1)


def scaled(text, width, of):
    """The text with ``width`` channels where it has ``of``, and all others in proportion."""
    return re.sub(r"(,|F)(\d+)", lambda m: m[1] + str(int(m[2]) * width // of), text)


#: Definition, parameters and MACs of each network that a paper trains or is compared with.
ARCHITECTURES = {
    "cifarnet": Architecture(
        "3x32 3x3,128 3x3,256 A 3x3,512 A 3x3,1024 3x3,512 F1024 F512 O10", 45_005_450, "1245.6"
    ),
    "vgg16_diet": Architecture("3x32 " + VGG + "F4096 F4096 O10", 39_925_696, "338.4", linear_bias=False),
    "vgg16_diet without norm": Architecture(
        "3x32 " + VGG + "F4096 F4096 O10", 39_917_248, "338.4", name="vgg16_diet", norm=False, linear_bias=False
    ),
    "vgg16_global_pool": Architecture("3x32 " + VGG + "A G O10", 14_728_266, "313.2", conv_bias=True),
    "vgg16_imagenet without norm": Architecture(
        "3x224 " + VGG + "A F4096 F4096 O1000", 138_344_128, "15470",
        name="vgg16_imagenet", norm=False, linear_bias=False,
    ),
    "resnet17": Architecture(
        "2x32 3x3,64 " + stage(64, 3, "1x1,64/2") + stage(128, 4, "1x1,128/2") + "A F256 O11", 1_871_243, "130.7"
    ),
    "resnet19": Architecture(RESNET19 + "G F256 O10", 12_697_994, "2285.37"),
    "resnet19 with 2x2 pooling": Architecture(
        RESNET19 + "A F256 O10", 14_664_074, "2287.3", {"pool": "2x2"}, name="resnet19"
    ),
    "resnet19 of imloss's and inflor's public code": Architecture(
        RESNET19 + "G O10", 12_569_226, "2285.25", {"hidden": False}, name="resnet19"
    ),
    "resnet20_diet without norm": Architecture(
        "3x32 3x3,64 3x3,64 3x3,64 A " + four((2, 2, 2, 2), STRIDED) + "O10", 11_253_440, "215.70",
        name="resnet20_diet", norm=False, linear_bias=False,
    ),
    "resnet20": Architecture(
        "3x32 3x3,64 3x3,64 3x3,64 A " + four((2, 2, 2, 2), POOLED) + "G O10", 11_247_946, "215.68"
    ),
    "resnet20_he": Architecture(
        "3x32 3x3,16 " + stage(16, 3, "") + padded(32, 3) + padded(64, 3) + "G O10", 269_722, "40.6"
    ),
    "dspike_resnet18": Architecture(
        "3x32 3x3,64 3x3,64 3x3,64/2 " + four((2, 2, 2, 2), POOLED) + "G O10", 11_247_946, "187.37"
    ),
    "dspike_resnet18 with a pool in the stem": Architecture(
        "3x32 3x3,64 3x3,64 A 3x3,64 " + four((2, 2, 2, 2), POOLED) + "G O10", 11_247_946, "187.37",
        {"stem": "pool_before"}, name="dspike_resnet18",
    ),
    "resnet18_cifar": Architecture("3x32 3x3,64 " + four((2, 2, 2, 2), STRIDED) + "G O100", 11_220_132, "555.5"),
    "resnet34_cifar": Architecture("3x32 3x3,64 " + four((3, 4, 6, 3), STRIDED) + "G O100", 21_328_292, "1159.4"),
    "resnet18_imagenet": Architecture(
        "3x224 7x7,64/2 A3/2 " + four((2, 2, 2, 2), STRIDED) + "G O1000", 11_689_512, "1814.1"
    ),
    "resnet34_imagenet": Architecture(
        "3x224 7x7,64/2 A3/2 " + four((3, 4, 6, 3), STRIDED) + "G O1000", 21_797_672, "3663.8"
    ),
    "tdbn_resnet34": Architecture("3x224 7x7,64/2 " + TDBN34 + "G O1000", 21_801_896, "3676.6"),
    "tdbn_resnet34 large": Architecture(
        "3x224 7x7,128/2 " + twice(TDBN34) + "G O1000", 86_127_464, "14469", {"width": 128}, name="tdbn_resnet34"
    ),
    "tdbn_resnet50": Architecture("3x224 7x7,64/2 " + TDBN50 + "G O1000", 25_557_032, "4127.7"),
    # Below: no paper prints a count. 27 * 64 + 18 * 9 * 64^2 weights, 19 norms of 128, 650; and, at 32 x 32,
    # 1024 * (1728 + 663552) + 640 MACs.
    "plain": Architecture("3x32 3x3,64 " + "3x3,64 " * 18 + "G O10", 668_362, "681.25"),
    # 54 + 1176 * 10 + 10; 54 * 784 + 11760.
    "toy_cnn": Architecture("1x28 3x3,6 A O10", 11_824, "0.054096", norm=False),
}  # fmt: skip


def interpret(text):
    """The layers with weights in the order in which they run."""
    text = re.sub(r"(\[[^]]*\])\*(\d+)", lambda m: (m[1] + " ") * int(m[2]), text)
    start, *tokens = re.sub(r"([\[\]|])", r" \1 ", text).split()
    channels, size = map(int, start.split("x"))
    rows, before_block, after_branch = [], None, None
    for token in tokens:
        if token == "[":
            before_block = channels, size
        elif token == "|":
            after_branch = channels, size
            channels, size = before_block
        elif token == "]":
            assert (channels, size) in (before_block, after_branch), "the shortcut has another shape than the branch"
            channels, size = after_branch
        elif token == "A":
            size //= 2
        elif token == "A3/2":
            size = (size + 2 - 3) // 2 + 1
        elif token == "G":
            size = 1
        elif token[0] in "FO":
            rows.append(Row(1, channels * size**2, int(token[1:]), 1))
            channels, size = int(token[1:]), 1
        else:
            kernel, after, stride = map(
                int, re.fullmatch(r"(\d)x\1,(\d+)/?(\d?)", token + "/1" * ("/" not in token)).groups()
            )
            size = (size + 2 * (kernel // 2) - kernel) // stride + 1
            rows.append(Row(kernel, channels, after, size))
            channels = after
    return rows


def parameters(text, conv_bias, norm, linear_bias):
    """Weights, biases and two numbers for each channel of a norm."""
    linear = len(re.findall(r"[FO]\d", text))
    rows = interpret(text)
    convolutions, linears = rows[:-linear], rows[-linear:]
    total = sum(row.weights for row in rows) + linear_bias * sum(row.after for row in linears)
    return total + (conv_bias + 2 * norm) * sum(row.after for row in convolutions)
