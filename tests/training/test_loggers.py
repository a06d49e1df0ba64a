"""Lightning's loggers are given each epoch's numbers, all of them after an interruption too, and decide none."""

import csv
import sys

import pytest
from lightning.pytorch.loggers import CSVLogger
from runs import RECIPES, TIMES, numbers, recipe_of, run, tiny
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from jellyplus.__main__ import main
from jellyplus._errors import InputError
from jellyplus._options import LOGGERS
from jellyplus.training import loggers, train
from jellyplus.training.loggers import Logs
from jellyplus.training.recipe import Run
from jellyplus.training.recipe_files import load_run


def trained(folder, logger):
    return train.train(recipe_of(), tiny(), 0, "cpu", folder / "state", None, "test", logger=logger)


def csv_of(folder):
    return Logs("csv", folder).of(Run("net", "smoke", recipe_of(), None), 0)


def logged(folder):
    (path,) = folder.glob("net/smoke/*/seed0/metrics.csv")
    with path.open() as file:
        return list(csv.DictReader(file))


def same(row, entry):
    shown = {name: value for name, value in entry.items() if name in row and name not in ("epoch", *TIMES)}
    assert {"accuracy", "train_loss", "learning_rate", "temperature"} <= shown.keys()
    return {name: float(row[name]) for name in shown} == pytest.approx(shown)


def test_a_run_is_logged_and_stays_the_same(tmp_path):
    outcome = trained(tmp_path, csv_of(tmp_path))
    rows = logged(tmp_path)
    assert [row["step"] for row in rows] == ["0", "1", "2"]
    assert all(same(row, entry) for row, entry in zip(rows, outcome.history, strict=True))
    assert numbers(outcome) == numbers(run(tmp_path / "without"))


def test_what_was_before_an_interruption_is_logged_again(tmp_path, monkeypatch):
    class Breaks(CSVLogger):
        def log_metrics(self, metrics, step=None):
            if step == 1:
                raise KeyboardInterrupt
            super().log_metrics(metrics, step)

    with pytest.raises(KeyboardInterrupt):
        trained(
            tmp_path, Breaks(str(tmp_path), f"net/smoke/{Run('net', 'smoke', recipe_of(), None).key[:16]}", "seed0")
        )
    outcome = trained(tmp_path, csv_of(tmp_path))
    rows = logged(tmp_path)
    assert [row["step"] for row in rows] == ["0", "1", "2"]
    assert all(same(row, entry) for row, entry in zip(rows, outcome.history, strict=True))


def test_the_command_line_logs_to_tensorboard(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert (
        main(
            [
                "train",
                str(RECIPES / "dspike/cifar10_t2_no_inheritance.yaml"),
                "--profile",
                "smoke",
                "--logger",
                "tensorboard",
                "--seeds",
                "3",
            ]
        )
        == 0
    )
    (folder,) = tmp_path.glob("results/logs/dspike/cifar10_t2_no_inheritance/smoke/*/seed3")
    events = EventAccumulator(str(folder))
    events.Reload()
    assert {"accuracy", "train_loss", "temperature"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("accuracy")] == [0]


def test_rows_of_a_table_that_have_one_recipe_have_logs_of_their_own(tmp_path):
    overrides = ({}, {"surrogate": {"name": "dspike", "parameters": {"width": None, "temperature": 1.0}}})
    runs = [load_run("compare/cifar10_resnet20_t2", "smoke", RECIPES, changed) for changed in overrides]
    assert len({Logs("csv", tmp_path).of(run, 0).log_dir for run in runs}) == 2


@pytest.mark.parametrize("stated", ["", "http://server"])
def test_mlflow_writes_to_the_users_server_or_to_a_database_beside_the_results(tmp_path, monkeypatch, stated):
    """Its folders of files, Lightning's default, MLflow 3 refuses to write."""
    made = []
    monkeypatch.setenv("MLFLOW_TRACKING_URI", stated)
    monkeypatch.setitem(sys.modules, "mlflow", sys)
    monkeypatch.setattr(loggers, "MLFlowLogger", lambda *names, **where: made.append((names, where)))
    Logs("mlflow", tmp_path / "logs").of(Run("net", "smoke", recipe_of(), None), 0)
    ((names, where),) = made
    assert names[0] == "jellyplus"
    assert names[1].startswith("net/smoke/")
    own = {"tracking_uri": f"sqlite:///{tmp_path}/logs/mlflow.db", "artifact_location": f"{tmp_path}/logs/artifacts"}
    assert where == ({"tracking_uri": stated} if stated else own)
    assert (tmp_path / "logs").is_dir() == (not stated)


def test_a_run_is_logged_to_mlflow(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    outcome = trained(tmp_path, Logs("mlflow", tmp_path).of(Run("net", "smoke", recipe_of(), None), 0))
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    (kept,) = client.search_runs([client.get_experiment_by_name("jellyplus").experiment_id])
    assert [m.value for m in client.get_metric_history(kept.info.run_id, "accuracy")] == [
        entry["accuracy"] for entry in outcome.history
    ]


def test_a_run_is_logged_to_wandb_without_a_network(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    outcome = trained(tmp_path, Logs("wandb", tmp_path).of(Run("net", "smoke", recipe_of(), None), 0))
    assert wandb.run.summary["accuracy"] == outcome.history[-1]["accuracy"]
    wandb.finish()
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))


def test_every_logger_is_one_of_lightnings():
    assert set(LOGGERS) == loggers._MAKE.keys()


@pytest.mark.parametrize("name", sorted(loggers._LIBRARIES))
def test_a_logger_whose_library_is_missing_is_refused_before_anything_is_made(name, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, loggers._LIBRARIES[name], None)
    with pytest.raises(InputError, match=f"--logger {name} needs"):
        Logs(name, tmp_path)
    assert not list(tmp_path.iterdir())
