"""Operations as evidence has them, counted again by the convention of a row; expectations are worked out by hand."""

import dataclasses
import json

import pytest
import torch
from torch import nn

from jellyplus._errors import InputError
from jellyplus.neuron import IterativeLIFNode
from jellyplus.op_counter import CONVENTIONS, OperationCounter
from jellyplus.reproduction import operations
from jellyplus.reproduction.quantities import QUANTITIES

# T = 2, two examples of 4 inputs, 0 or 1 but for one in the second: 24 MACs to the 3 neurons, 12 to the 2 outputs. All
# neurons fire: 12 additions behind them. By measured inputs the first layer multiplies, as in Dspike.
COUNTS = {
    "default": {"additions": 36, "multiplications": 24, "energy_uj": (36 * 0.9 + 24 * 4.6) / 1e6},
    "dspike": {"additions": 36, "multiplications": 24, "energy_uj": (36 * 0.9 + 24 * 4.6) / 1e6},
    "tdbn": {"additions": 36, "multiplications": 36, "energy_uj": (36 * 0.9 + 36 * 4.6) / 1e6},
}


@pytest.fixture
def measured():
    net = nn.Sequential(nn.Linear(4, 3, bias=False), IterativeLIFNode(step_mode="m"), nn.Linear(3, 2))
    nn.init.ones_(net[0].weight)
    images = torch.tensor([[1.0, 0, 0, 1], [1, 1, 0.5, 1]])
    with torch.no_grad(), OperationCounter(net) as counter:
        net(images.expand(2, 2, 4))
    return counter.measurement()


@pytest.fixture
def evidence(make_evidence, measured):
    """As it is read again."""
    return make_evidence(operations=json.loads(json.dumps(operations.record(measured, "by hand"))))


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("name", ["additions", "multiplications", "energy_uj"])
def test_numbers_of_evidence_under_each_convention(evidence, name, convention):
    assert operations.value(evidence, name, convention) == pytest.approx(COUNTS[convention][name])
    assert QUANTITIES[name].of(evidence, convention) == operations.value(evidence, name, convention)


def test_what_evidence_says_at_first_sight_is_the_default(evidence, measured):
    held = evidence.operations
    assert {name: held[name] for name in COUNTS["default"]} == pytest.approx(COUNTS["default"])
    assert held["macs_per_time_step"] == 18
    assert held["spike_rate"] == pytest.approx((24 * 12 / 16 + 12) / 36)  # 2 and 4 of 4 inputs, twice; 3 of 3 neurons
    assert (held["firing_rate"], held["examples"], held["time_steps"], held["chosen"]) == (1, 2, 2, "by hand")
    assert held["convention"] == str(CONVENTIONS["default"])


def test_the_standard_error_stands_with_its_convention(make_evidence):
    """2 and 4 spikes read by 3 outputs: 6 and 12 additions; standard error 3, 2.7 pJ. By the papers both multiply."""
    net = nn.Sequential(nn.Linear(4, 3))
    with torch.no_grad(), OperationCounter(net) as counter:
        net(torch.tensor([[1.0, 0, 0, 1], [1, 1, 1, 1]]))
    evidence = make_evidence(operations=operations.record(counter.measurement(), ""))
    assert operations.error(evidence, "additions", "default") == pytest.approx(3)
    assert operations.error(evidence, "energy_uj", "default") == pytest.approx(2.7e-6)
    assert operations.error(evidence, "energy_uj", "dspike") == 0
    assert operations.error(evidence, "multiplications", "default") is None
    assert operations.energy_in_words(evidence) == "8.1e-06 ± 3e-06 uJ"


def test_a_sample_of_one_has_no_standard_error(make_evidence, measured):
    alone = dataclasses.replace(measured, by_example=None)
    evidence = make_evidence(operations=operations.record(alone, ""))
    assert operations.error(evidence, "additions", "default") is None
    assert operations.energy_in_words(evidence) == "0.0001428 uJ"


def test_old_evidence_has_numbers_of_its_own_convention_alone(make_evidence):
    """It has no layers: what it was counted by is all that it can tell."""
    old = make_evidence()
    old.operations["convention"] = str(CONVENTIONS["default"])
    assert operations.value(old, "additions", "default") == 30
    for convention in ("dspike", "tdbn"):
        assert operations.value(old, "additions", convention) is None
    old.operations["convention"] = "another"
    assert operations.value(old, "additions", "default") is None
    assert operations.error(old, "energy_uj", "default") is None
    assert operations.energy_in_words(old) == "7.3e-05 uJ"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"layers": []}, "no convolution or linear layer has run"),
        ({"layers": [{"name": "a"}]}, r"key 'layers\[0\]\.kind' is missing"),
        ({"layers": 1}, "key 'layers' is 1; it must be a list"),
        ({"examples": 0}, "must be 1 or more"),
        ({"time_steps": "2"}, "key 'time_steps' is '2'"),
        ({"additions_error": {"tdbn": "none"}}, "additions_error.tdbn"),
    ],
)
def test_layers_that_no_network_has_are_refused(evidence, change, reason):
    evidence.operations.update(change)
    with pytest.raises(InputError, match=f"the operations of dspike/a, seed 0: .*{reason}"):
        operations.value(evidence, "additions", "tdbn")


def test_a_layer_that_did_not_run_is_refused(evidence):
    evidence.operations["layers"][1]["inputs"] = 0
    with pytest.raises(InputError, match="is of no layer that ran"):
        operations.value(evidence, "additions", "tdbn")
