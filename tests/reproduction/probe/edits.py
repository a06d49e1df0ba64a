"""Harmless edits of the package, and faults with the runs that have to notice.

An edit is a list of [file, what stands there once, what shall stand there]; where nothing stood, the file is made.
"""

#: recipe, profile, what is changed in it, and a measure with its settings instead of the run.
RUNS = {
    "ann": ("dspike/cifar10_ann", "small", {}, None, {}),
    "search": ("dspike/cifar10_t6", "embedded", {"initial_weights": {"ann_bias": "scale"}}, None, {}),
    "differences": ("dspike/mnist_toy_finite_differences", "paper", {}, None, {}),
    "esg": ("imloss/cifar10_cifarnet_t4", "embedded", {}, None, {}),
    "residual": ("imloss/cifar10_resnet19_t4", "embedded", {"evolution": None}, None, {}),
    "warm": ("imloss/cifar10_cifarnet_t4_bare", "embedded", {}, None, {}),
    "mpr": ("inflor/cifar10_resnet20_t4", "embedded", {}, None, {}),
    "srif": ("inflor/cifar10_resnet20_t4_no_mpr", "embedded", {}, None, {}),
    "shortcut": ("shortcut/cifar10_resnet18_t2_evolutionary", "embedded", {}, None, {}),
    "dvs": ("tdbn/cifar10dvs_resnet19_t10", "embedded", {}, None, {}),
    "norms": ("tdbn/cifar10_plain20", "embedded", {}, "gradient_norms", {"epoch_parts": 1}),
    "error": ("inflor/cifar10_resnet20_t4", "embedded", {}, "quantisation_error", {}),
}
ALL = set(RUNS)
TRAINED = ALL - {"norms"}  # those that go through a whole run
RUN = TRAINED - {"error"}  # those whose evidence is a run's
SPIKING = ALL - {"ann"}
NORMED = ALL - {"differences", "warm"}
SRIF = {"mpr", "srif", "error"}
RECTIFIED = {"mpr", "error"}
LIF = SPIKING - SRIF
STEPPED = {"dvs"}  # the learning rate falls in steps
DSPIKE = {"search"}
EVAF = {"esg", "residual", "warm"}
IM_LOSS = {"esg", "residual"}
RECTANGULAR = SPIKING - DSPIKE - IM_LOSS
DECAYING = {"ann", "search", "esg", "residual", "warm", *SRIF, "shortcut"}  # weights
CROPPED = RUN - {"differences", "dvs"} | {"norms", "error"}

CLASSIFIER, TRAIN, DATA = "training/classifier.py", "training/train.py", "training/data.py"
DYNAMICS, TORCH, SURROGATE = "neuron/dynamics.py", "neuron/torch_backend.py", "surrogate.py"
_SGD_STEP = "    return torch.optim.SGD(parameters, lr=learning_rate, **settings)\n"
SGD = "    optimizer = torch.optim.SGD(net.parameters(), learning_rate, momentum)\n"
LOSS = "    loss = IMLoss(net, weight)\n"
RECTIFIER, NETWORK, ORDER = "neuron/rectifier.py", "training/network.py", "datasets/order.py"

#: By name: one edit, and the runs that do something else with it.
FAULTS = {
    "Dspike's window open": (
        [SURROGATE, "inside = x.abs().le_(0.5)", "inside = x.abs().lt_(0.5)"],
        DSPIKE,
    ),
    "Dspike's peak": (
        [SURROGATE, "peak = self.temperature / (2 *", "peak = self.temperature / (2.001 *"],
        DSPIKE,
    ),
    "the rectangular window closed": (
        [SURROGATE, "inside = x.abs_().lt_(self.width / 2)", "inside = x.abs_().le_(self.width / 2)"],
        RECTANGULAR,
    ),
    "EvAF's gradient": ([SURROGATE, ".mul_(-self.k / 2)", ".mul_(-self.k / 2.00001)"], IM_LOSS),
    "the triangular gradient, which no recipe has": (
        [SURROGATE, ".clamp_(min=0).mul_(self.gamma)", ".clamp_(min=0)"],
        set(),
    ),
    "the rectifier's negative branch": (
        [RECTIFIER, "(1 + F.relu(-u)).pow(1 / 3)", "(1 + F.relu(-u)).pow(1 / 2)"],
        RECTIFIED,
    ),
    "the rectifier's gradient outside": (
        [RECTIFIER, "F.relu(-u)).pow(-2 / 3) / 3", "F.relu(-u)).pow(-1 / 3) / 3"],
        RECTIFIED,
    ),
    "a joint of the rectifier": (
        [RECTIFIER, "torch.where(u == clamped, inside", "torch.where((u > 0) & (u <= 1), inside"],
        RECTIFIED,
    ),
    "decay": (
        [DYNAMICS, "torch.add(x, v, alpha=self.decay, out=out)", "torch.add(x, v, alpha=self.decay**2, out=out)"],
        LIF,
    ),
    "hard reset incomplete": (
        [
            DYNAMICS,
            "torch.addcmul(h, h, spike, value=-1, out=out)",
            "torch.addcmul(h, h, spike, value=-0.999, out=out)",
        ],
        LIF,
    ),
    "soft reset by V_th": (["neuron/srif.py", "spike_size=1.0", "spike_size=self.v_threshold"], SRIF),
    "reset before firing": (
        [
            TORCH,
            "            self._fire(h, out=spikes[t])\n            v = self.dynamics.reset(h, spikes[t], out=last)\n",
            "            v = self.dynamics.reset(h, spikes[t - 1] if t else h * 0, out=last)\n"
            "            self._fire(v, out=spikes[t])\n",
        ],
        SPIKING,
    ),
    "a strict threshold": (
        [TORCH, "torch.gt if self.dynamics.strict else torch.ge", "torch.gt"],
        SPIKING,
    ),
    "the reset detached": (
        [DYNAMICS, "return silent.fill_(1) if self.detach_reset", "return silent.fill_(1) if not self.detach_reset"],
        SRIF,
    ),
    "alpha of tdBN": (
        [NETWORK, '("eps", "momentum"), alpha=alpha,', '("eps", "momentum"), alpha=1.01 * alpha,'],
        NORMED,
    ),
    "alpha where branches meet": (
        [
            NETWORK,
            "getattr(recipe.norm, name) for name in names}",
            "getattr(recipe.norm, name) * (0.9 if 'branch' in name else 1) for name in names}",
        ],
        {"ann", "search", "residual", *SRIF, "shortcut", "dvs"},
    ),
    "tdBN's eps": (
        ["layer.py", "self.training, momentum, self.eps)", "self.training, momentum, 2 * self.eps)"],
        NORMED,
    ),
    "running statistics": (
        ["layer.py", "self.training, momentum, self.eps)", "self.training, 0.11, self.eps)"],
        NORMED,
    ),
    "K one epoch early": (
        ["training/methods/evolution.py", "self._k(training.current_epoch,", "self._k(training.current_epoch + 1,"],
        {"esg"},
    ),
    "lambda one iteration late": (
        ["training/methods/shortcut.py", "trainer.global_step + 1, int", "trainer.global_step, int"],
        {"shortcut"},
    ),
    "shortcut branches in evaluation": (["model/shortcut.py", "plain.shortcuts = None", "pass"], {"shortcut"}),
    "the cosine one epoch short": (
        [
            "training/parts.py",
            "(optimizer, epochs, final_learning_rate)",
            "(optimizer, epochs - 1, final_learning_rate)",
        ],
        RUN - STEPPED | {"error"},
    ),
    "the step one epoch late": (
        ["training/parts.py", "StepLR(optimizer, step_epochs,", "StepLR(optimizer, step_epochs + 1,"],
        STEPPED,
    ),
    "momentum": (
        ["training/parts.py", _SGD_STEP, _SGD_STEP.replace("**settings", "**settings | {'momentum': 0.8}")],
        ALL,
    ),
    "weight decay on weights alone": (
        [
            "training/parts.py",
            _SGD_STEP,
            "    parameters = [*parameters]\n"
            "    parameters = [\n"
            "        {'params': [p for p in parameters if p.dim() > 1]},\n"
            "        {'params': [p for p in parameters if p.dim() < 2], 'weight_decay': 0},\n"
            "    ]\n" + _SGD_STEP,
        ],
        DECAYING,
    ),
    "a sum over time": (["loss.py", "return y_seq.mean(0)", "return y_seq.sum(0)"], ALL - {"ann"}),
    "labels smoothed": (
        [
            "loss.py",
            "cross_entropy(read_out(y_seq), labels)",
            "cross_entropy(read_out(y_seq), labels, label_smoothing=0.001)",
        ],
        ALL,
    ),
    "evaluation in training mode": (
        [
            CLASSIFIER,
            "        x, labels, _ = batch\n        self.correct",
            "        x, labels, _ = batch\n        self.net.train()\n        self.correct",
        ],
        NORMED - {"norms"},
    ),
    "crop padding": (["datasets/transforms.py", "padding=crop_padding)", "padding=crop_padding + 1)"], CROPPED),
    "cutout": (["datasets/transforms.py", "partial(Cutout, cutout_size)", "partial(Cutout, cutout_size - 1)"], {"ann"}),
    "sample order": (
        [ORDER, "manual_seed(derived_seed(self.seed, epoch)))", "manual_seed(derived_seed(self.seed, epoch + 1)))"],
        ALL,
    ),
    "the normalisation of CIFAR-10": (
        ["datasets/cifar.py", "(0.4914, 0.4822, 0.4465)", "(0.4914, 0.4822, 0.4464)"],
        {"ann"},
    ),
    "the contrast threshold of the simulated camera": (
        ["datasets/embedded.py", "CONTRAST_THRESHOLD = 0.5", "CONTRAST_THRESHOLD = 0.51"],
        {"dvs"},
    ),
    "the initialisation": (["model/network.py", '= "fan_out" if', '= "fan_in" if'], ALL),
    "IM-Loss in residual branches too": (
        ["loss.py", "for inner in block.branch}", "for inner in ()}"],
        {"residual"},
    ),
    "the warm start without momentum": (
        [
            "training/methods/warm_start.py",
            "net.parameters(), learning_rate, momentum)",
            "net.parameters(), learning_rate)",
        ],
        {"warm"},
    ),
    "the search's epsilon": (
        ["training/methods/temperature_search.py", "self.settings.epsilon,", "2 * self.settings.epsilon,"],
        DSPIKE,
    ),
    "the search in the other mode": (
        [
            "training/methods/temperature_search.py",
            'train(self.settings.statistics == "train")',
            'train(self.settings.statistics != "train")',
        ],
        DSPIKE,
    ),
    "a parent's bias not scaled": ([NETWORK, 'settings.ann_bias == "scale"', 'settings.ann_bias == "never"'], DSPIKE),
    "a parent's statistics not taken": (
        [
            NETWORK,
            "common = [name for name in target if",
            'common = [name for name in target if "running" not in name and',
        ],
        DSPIKE,
    ),
    "differences of twice the step": (
        ["training/methods/finite_differences.py", "self.settings.epsilon,", "2 * self.settings.epsilon,"],
        {"differences"},
    ),
    "energy of a multiplication": (
        ["op_counter/convention.py", "pj_per_multiplication: float = 4.6", "pj_per_multiplication: float = 4.5"],
        RUN,
    ),
    "the best epoch as the last": (
        ["reproduction/evidence.py", 'accuracy_last=last["accuracy"]', 'accuracy_last=best["accuracy"]'],
        TRAINED,
    ),
    "the quantisation error": (
        ["monitor.py", "(h - spike.double()).square().sum()", "(h - spike.double()).abs().sum()"],
        {"error"},
    ),
    "which layers a figure shows": (
        ["reproduction/measures/steps.py", "list(watch.norms.values())[1:-1]", "list(watch.norms.values())[1:]"],
        {"norms"},
    ),
}

#: By name: edits that change the text alone.
HARMLESS = {
    "a private function renamed": [
        [DYNAMICS, "kept = self._kept(h, silent, slope)", "kept = self._slope_of_reset(h, silent, slope)"],
        [DYNAMICS, "def _kept(self", "def _slope_of_reset(self"],
    ],
    "an error reworded": [
        [
            "neuron/base.py",
            "step mode 'm' needs input [T, N, *] with T >= 1, got",
            "give [T, N, *] with at least one time-step, not",
        ],
    ],
    "independent statements reordered": [
        [
            "training/methods/warm_start.py",
            SGD + LOSS,
            LOSS + SGD,
        ],
    ],
    "a class in a file of its own": [
        [
            "training/initial_state.py",
            "",
            "from typing import NamedTuple\n\n\n"
            "class InitialState(NamedTuple):\n    weights: dict\n    spiking: bool\n",
        ],
        [
            NETWORK,
            "class InitialState(NamedTuple):\n"
            '    """The last weights of another run, and whether its network has neurons that fire."""\n\n'
            "    weights: dict[str, Tensor]\n    spiking: bool\n",
            "from jellyplus.training.initial_state import InitialState  # noqa\n",
        ],
    ],
    "a loop replaced by an equal expression": [
        [
            TORCH,
            "            if v_seq is not None:\n                v_seq[t] = v\n",
            "            v_seq is None or v_seq[t].copy_(v)\n",
        ],
    ],
    "an equal formula": [
        [SURROGATE, "return torch.tanh(self.k * x) / 2 + 0.5", "return 0.5 * (1 + torch.tanh(x * self.k))"]
    ],
    "a sum in another order": [[CLASSIFIER, "loss = sum(terms, output_loss)", "loss = sum(terms) + output_loss"]],
    "a mean as a sum": [["loss.py", "return y_seq.mean(0)", "return y_seq.sum(0) / len(y_seq)"]],
    "an equal condition": [
        [
            NETWORK,
            '{"v_threshold": recipe.neuron and recipe.neuron.v_threshold}',
            '{"v_threshold": recipe.neuron.v_threshold if recipe.neuron else None}',
        ]
    ],
    "a helper in place of a lambda": [
        [
            DATA,
            "sizes = (settings.crop_padding, settings.cutout_size, settings.roll_pixels)",
            "sizes = tuple(getattr(settings, name) for name in ('crop_padding', 'cutout_size', 'roll_pixels'))",
        ]
    ],
    "a constant given a name": [
        ["model/network.py", "nn.init.zeros_(module.bias)", "nn.init.constant_(module.bias, _NONE)"],
        ["model/network.py", "Neuron = Callable[[], nn.Module]", "_NONE = 0.0\nNeuron = Callable[[], nn.Module]"],
    ],
}
