import pickle
from functools import partial

import lightning
import pytest
import torch
from torch.utils.data import DataLoader

from jellyplus.datasets.base import Split, UnreadableError
from jellyplus.datasets.order import AugmentedSplit, EpochOrder, EvaluationSplit, collate

SPLIT = Split(torch.arange(24, dtype=torch.uint8).reshape(12, 1, 1, 2), torch.arange(12) % 3)


def noisy(inputs):
    return inputs + torch.rand(())


def batches(epochs, seed=0, workers=0):
    """The batches of these epochs, in one loader, as lists."""
    order, data = EpochOrder(len(SPLIT), seed), AugmentedSplit(SPLIT, noisy, seed)
    loader = DataLoader(data, batch_size=4, sampler=order, num_workers=workers)
    made = {}
    for epoch in epochs:
        order.set_epoch(epoch)
        made[epoch] = [(inputs.tolist(), labels.tolist()) for inputs, labels, _ in loader]
    return made


def test_every_example_comes_once_per_epoch():
    order = EpochOrder(12, seed=0)
    assert len(order) == 12
    for epoch in (0, 3):
        order.set_epoch(epoch)
        keys = list(order)
        assert {e for e, _ in keys} == {epoch}
        assert sorted(i for _, i in keys) == list(range(12))
        assert [i for _, i in keys] == order.indices(epoch).tolist()


def test_orders_differ_by_seed_and_epoch_only():
    orders = {(seed, epoch): tuple(EpochOrder(50, seed).indices(epoch).tolist()) for seed in (0, 1) for epoch in (0, 1)}
    assert len(set(orders.values())) == 4
    torch.manual_seed(3)
    later = EpochOrder(50, 1)
    later.set_epoch(7)
    list(later)
    later.set_epoch(1)
    assert tuple(i for _, i in later) == orders[1, 1]


def test_an_iteration_keeps_the_epoch_it_began_with():
    order = EpochOrder(5, seed=0)
    running = iter(order)
    order.set_epoch(1)
    assert {epoch for epoch, _ in running} == {0}


def test_first_places_are_uniform():
    first = torch.tensor([EpochOrder(4, seed=0).indices(epoch)[0].item() for epoch in range(800)])
    assert ((first.bincount(minlength=4) - 200).abs() < 60).all()


def test_a_resumed_run_sees_what_the_uninterrupted_one_saw():
    whole = batches([0, 1, 2])
    assert batches([2]) == {2: whole[2]}
    assert whole[0] != whole[1]
    assert batches([2], seed=1)[2] != whole[2]


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_do_not_matter(workers):
    assert batches([0, 1], workers=workers) == batches([0, 1])


def test_draws_depend_on_the_key_alone():
    data = AugmentedSplit(SPLIT, noisy, seed=0)
    keys = [(epoch, index) for epoch in range(3) for index in range(12)]
    there = [data[key][0] for key in keys]
    back = [pickle.loads(pickle.dumps(data))[key][0] for key in reversed(keys)][::-1]
    assert all(torch.equal(a, b) for a, b in zip(there, back, strict=True))
    draws = {(made - SPLIT.inputs[index]).flatten()[0].item() for made, (_, index) in zip(there, keys, strict=True)}
    assert len(draws) == 36
    assert not torch.equal(AugmentedSplit(SPLIT, noisy, seed=1)[0, 0][0], there[0])


def test_inputs_and_labels_belong_together():
    data = AugmentedSplit(SPLIT, lambda inputs: inputs, seed=0)
    assert len(data) == 12
    inputs, label, index = data[5, 7]
    assert (inputs.tolist(), label.item(), label.dtype, index) == ([[[14, 15]]], 1, torch.int64, 7)


def test_the_global_generator_is_left_alone(monkeypatch):
    def refuse(_):
        raise AssertionError("the accelerators' generators were seeded")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", refuse)
    monkeypatch.setattr(torch.cuda, "manual_seed", refuse)
    torch.default_generator.manual_seed(5)
    expected = torch.rand(2)
    torch.default_generator.manual_seed(5)
    AugmentedSplit(SPLIT, noisy, seed=0)[0, 0]
    list(EpochOrder(5, seed=0))
    assert torch.equal(torch.rand(2), expected)


def test_the_generator_is_restored_after_an_error():
    def fail(_):
        torch.rand(())
        raise ValueError("broken")

    state = torch.get_rng_state()
    with pytest.raises(ValueError, match="broken"):
        AugmentedSplit(SPLIT, fail, seed=0)[0, 0]
    assert torch.equal(torch.get_rng_state(), state)


def test_evaluation_draws_nothing():
    data = EvaluationSplit(SPLIT, lambda inputs: inputs / 2)
    state = torch.get_rng_state()
    together = partial(collate, skip_unreadable=False)
    inputs, labels, _ = next(iter(DataLoader(data, 12, collate_fn=together, generator=torch.Generator())))
    assert torch.equal(torch.get_rng_state(), state)
    assert inputs.flatten().tolist() == [i / 2 for i in range(24)]
    assert labels.tolist() == [0, 1, 2] * 4


# --- Files that cannot be read -----------------------------------------------------------------------------------


class Files:
    """Inputs of which those in ``damaged`` cannot be read."""

    shape = (12, 1, 1, 2)
    identity = b"files"

    def __init__(self, *damaged):
        self.damaged = damaged

    def __getitem__(self, index):
        if index in self.damaged:
            raise UnreadableError(f"cannot read the image {index}.jpg: it is cut off; replace or remove it")
        return SPLIT.inputs[index]


def loaded(*damaged, skip=False, workers=0):
    data = EvaluationSplit(Split(Files(*damaged), SPLIT.labels), lambda inputs: inputs)
    together = partial(collate, skip_unreadable=skip)
    return [
        (inputs.flatten().tolist()[::2], labels.tolist(), ids.tolist())
        for inputs, labels, ids in DataLoader(data, batch_size=4, collate_fn=together, num_workers=workers)
    ]


def test_a_batch_says_which_examples_it_has():
    assert loaded()[1] == ([8, 10, 12, 14], [1, 2, 0, 1], [4, 5, 6, 7])


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_example_stops_with_its_name_alone(workers):
    with pytest.raises(UnreadableError) as caught:
        loaded(6, workers=workers)
    assert str(caught.value) == "cannot read the image 6.jpg: it is cut off; replace or remove it"


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_examples_are_left_out_where_the_recipe_says_so(workers):
    assert loaded(5, 6, skip=True, workers=workers) == [
        ([0, 2, 4, 6], [0, 1, 2, 0], [0, 1, 2, 3]),
        ([8, 14], [1, 1], [4, 7]),
        ([16, 18, 20, 22], [2, 0, 1, 2], [8, 9, 10, 11]),
    ]


def test_a_batch_with_nothing_to_read_stops_all_the_same():
    with pytest.raises(UnreadableError, match=r"4\.jpg"):
        loaded(4, 5, 6, 7, skip=True)


class Recorder(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen.append((self.current_epoch, batch_idx, batch[0].tolist()))
        return self.weight * batch[0].mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(folder, max_epochs, ckpt_path=None):
    loader = DataLoader(AugmentedSplit(SPLIT, noisy, seed=0), batch_size=4, sampler=EpochOrder(12, seed=0))
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(max_epochs=max_epochs, accelerator="cpu", default_root_dir=folder, **quiet)
    module = Recorder()
    trainer.fit(module, loader, ckpt_path=ckpt_path)
    trainer.save_checkpoint(folder / "last.ckpt")
    return module.seen


@pytest.mark.filterwarnings("ignore")
def test_lightning_sets_the_epoch_and_resumes(tmp_path):
    whole = fit(tmp_path, max_epochs=3)
    expected = batches([0, 1, 2])
    assert whole == [(e, i, inputs) for e in expected for i, (inputs, _) in enumerate(expected[e])]
    fit(tmp_path, max_epochs=2)
    assert fit(tmp_path, max_epochs=3, ckpt_path=tmp_path / "last.ckpt") == whole[6:]
