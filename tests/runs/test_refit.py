"""The fit of a refit and what is said of it, from numbers alone; tests/cli/test_refit.py makes real ones."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lightning_recipe.runs.fit import RECORD, Settings
from lightning_recipe.runs.losses_at_best import LossesAtBest, main_loss
from lightning_recipe.runs.pool_facts import PoolFacts
from lightning_recipe.runs.refit import check, check_data, ended_by, go_on, restart, without_metrics
from lightning_recipe.runs.stopping_point import StoppingPoint

STOPPED = StoppingPoint(Path("best.ckpt"), 200, 4, 40, "val/loss", 0.25, 1e-3, waits=False)
FACTS = PoolFacts(800, 200, None, None, ())
LOSSES = LossesAtBest("val/loss", 0.1, 0.25, "")
EARLY: Settings = {"class_path": "lightning.pytorch.callbacks.EarlyStopping", "init_args": {"monitor": "val/loss"}}
GIT: Settings = {
    "class_path": "lightning_rules.GitTagCheckpoint",
    "init_args": {"monitor": "val/loss", "mode": "min", "filename": "{val/loss}", "policy": "all", "save_last": True},
}
OTHER: Settings = {"class_path": "my.Callback", "init_args": {"a": 1}}


def settings(**trainer: Any) -> Settings:
    return {"seed_everything": 3, "trainer": {"max_epochs": 10, "max_steps": -1, "callbacks": None, **trainer}}


def test_a_restart_with_as_many_steps_has_epochs_and_schedules_as_long_as_before() -> None:
    fit, says = restart(settings(max_time="0:1", callbacks=[EARLY]), Path("f"), STOPPED, FACTS, "steps")
    trainer = fit.settings["trainer"]
    assert (trainer["max_epochs"], trainer["max_steps"], trainer["limit_train_batches"]) == (10, -1, 40)
    assert (trainer["limit_val_batches"], trainer["max_time"]) == (0, None)
    assert (fit.settings["all_data"], fit.settings["seed_everything"]) == ("anew", 3)
    assert fit.settings["test_after_fit"] is False, "the test set is kept out"
    assert trainer["callbacks"][1]["init_args"] == {"step": 200}
    assert says == (
        "restart: anew on 800 training and 200 validation examples for 200 optimiser steps, as many as the run had at "
        "its best (step 200 in epoch 5, val/loss 0.25): with batches as large, as many examples are seen."
    )


def test_a_restart_with_as_many_passes_is_longer_by_the_examples() -> None:
    limits = {"max_steps": 401, "limit_train_batches": 40}
    fit, says = restart(settings(**limits), Path("f"), STOPPED, FACTS, "passes")
    trainer = fit.settings["trainer"]
    assert (trainer["max_steps"], trainer["limit_train_batches"]) == (502, 50)
    assert trainer["callbacks"][1]["init_args"] == {"step": 250}
    assert "for 250 optimiser steps, 1.25 times as many as the run had at its best" in says
    assert says.endswith(": each is seen as often.")
    share = restart(settings(limit_train_batches=0.5), Path("f"), STOPPED, FACTS, "passes")[0]
    assert share.settings["trainer"]["limit_train_batches"] == 0.5


def test_to_go_on_starts_at_the_best_and_ends_below_the_training_loss() -> None:
    fit, says = go_on(settings(min_epochs=9, val_check_interval=0.5), Path("f"), STOPPED, LOSSES, None)
    trainer = fit.settings["trainer"]
    assert (trainer["max_epochs"], trainer["min_epochs"], trainer["val_check_interval"]) == (5, None, None)
    assert fit.settings["all_data"] == "kept"
    start, until = (one["init_args"] for one in trainer["callbacks"][1:3])
    assert start == {"checkpoint": "best.ckpt"}
    assert (until["monitor"], until["mode"], until["stopping_threshold"]) == ("val/loss", "min", 0.1)
    assert "the validation examples are trained on" in fit.settings["ignore_rules"]["no-leak"]
    assert "at its rate of 0.001, held constant, on all of the data, until val/loss on the old validation part" in says
    assert says.endswith("for 5 epochs at most.")
    assert go_on(settings(), Path("f"), STOPPED, LOSSES, 2)[0].settings["trainer"]["max_epochs"] == 2


def test_callbacks_keep_the_last_weights_and_wait_for_no_metric() -> None:
    record = {"class_path": RECORD, "init_args": {"path": "x.json"}}
    mine = {"class_path": "lightning_recipe.runs.refit_callbacks.StopAtStep", "init_args": {"step": 3}}
    keeper, other = without_metrics({"callbacks": [EARLY, GIT, OTHER, record, mine, {"class_path": "b.Checkpoint"}]})
    assert other == OTHER
    assert keeper["class_path"] == GIT["class_path"]
    assert keeper["init_args"]["monitor"] is None
    assert keeper["init_args"]["policy"] == "all"
    assert "mode" not in keeper["init_args"]
    (added,) = without_metrics({"callbacks": None})
    assert added["class_path"].endswith("ModelCheckpoint")


@pytest.mark.parametrize(
    ("last", "words"),
    [({"val/loss": 0.09}, "the threshold: val/loss 0.09 on"), ({"val/loss": 0.1}, "the cap: "), ({}, "not finite")],
)
def test_what_has_ended_it(last: dict[str, float], words: str) -> None:
    assert words in ended_by(LOSSES, {"metrics": last})


def test_what_cannot_be_refitted_is_refused() -> None:
    with pytest.raises(ValueError, match="was lowered when a validation metric stopped to improve, and a refit has no"):
        restart(settings(), Path("f"), replace(STOPPED, waits=True), FACTS, "steps")
    with pytest.raises(ValueError, match=r"best\.ckpt was saved before the first epoch had ended.*with --match passes"):
        restart(settings(), Path("f"), replace(STOPPED, batches=None), FACTS, "steps")
    with pytest.raises(ValueError, match=r"val/loss 0\.05 on validation data, below 0\.1 on training data, where"):
        go_on(settings(), Path("f"), STOPPED, replace(LOSSES, validation=0.05), None)
    with pytest.raises(ValueError, match="The run has no validation examples, so that a refit would train on what"):
        check_data(replace(FACTS, validation=0))
    with pytest.raises(ValueError, match="A refit needs training and validation data whose examples can be counted"):
        check_data(replace(FACTS, training=None))
    with pytest.raises(ValueError, match="The run has the option --fold 1/5, by which it was trained on data of its"):
        check({**settings(), "fold": "1/5"})
    with pytest.raises(ValueError, match="A refit is made of checkpoints, and these settings keep none"):
        check(settings(enable_checkpointing=False))


def test_the_loss_is_the_one_that_is_called_so() -> None:
    assert main_loss({"val/accuracy": 1.0, "val/mse": 1.0, "val/loss": 1.0}) == "val/loss"
    assert main_loss({"val/accuracy": 1.0, "val/mse": 1.0}) == "val/mse"
    with pytest.raises(ValueError, match=r"Validation logs no loss \(it logs val/accuracy\), which `continue` follows"):
        main_loss({"val/accuracy": 1.0})
