"""Data sets are found where the README says that they may lie."""

import numpy as np
import pytest
from PIL import Image

from jellyplus._errors import InputError
from jellyplus.datasets import cifar, command, folders, mnist


@pytest.mark.parametrize("name", ["cifar-10-batches-py", "MNIST"])
def test_a_link_of_the_name_is_found_whatever_it_leads_to(tmp_path, name):
    (tmp_path / "store").mkdir()
    (tmp_path / name).symlink_to(tmp_path / "store")
    assert folders.find(tmp_path / name, name).samefile(tmp_path / "store")


def test_official_layouts_in_a_folder_of_the_data_set(tmp_path):
    (tmp_path / "cifar10/cifar-10-batches-py").mkdir(parents=True)
    (tmp_path / "mnist/MNIST/raw").mkdir(parents=True)
    assert cifar.survey_cifar10(tmp_path).layout == "official batches cifar-10-batches-py"
    assert mnist.survey(tmp_path) is not None


def test_hidden_folders_are_no_classes(tmp_path):
    names = [f"c{label}" for label in range(10)]
    for split in ("train", "test"):
        for name in (*names, ".ipynb_checkpoints"):
            (tmp_path / "cifar10" / split / name).mkdir(parents=True)
            Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / "cifar10" / split / name / "a.png")
    data = cifar.cifar10(str(tmp_path))
    assert (len(data.train), data.train.labels.tolist()) == (10, list(range(10)))


def test_data_check_advises_no_option_that_it_lacks(tmp_path):
    with pytest.raises(InputError, match="is not a readable folder") as caught:
        command.check(tmp_path / "nothing")
    assert "--data-root" not in str(caught.value)
