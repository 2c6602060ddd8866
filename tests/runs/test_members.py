from pathlib import Path

import pytest
import yaml

from lightning_recipe.runs.fit import Fit, default_folder, differences
from lightning_recipe.runs.members import make_members

CSV = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "logs", "name": "digits"}}
WANDB = {"class_path": "WandbLogger", "init_args": {"save_dir": ".", "name": "mine", "id": "abc", "version": "abc"}}
KEEP = {"class_path": "ModelCheckpoint", "init_args": {"monitor": "val/loss", "dirpath": "kept/here"}}
STOP = {"class_path": "EarlyStopping", "init_args": {"monitor": "val/loss"}}


def settings(logger=CSV, callbacks=(KEEP, STOP), seed=42):
    trainer = {"logger": logger, "callbacks": list(callbacks), "max_epochs": 3}
    return {"seed_everything": seed, "test_after_fit": True, "trainer": trainer, "fold": None, "bootstrap": None}


def made(how="seeds", **options) -> list[Fit]:
    return make_members(settings(**options), how, 3, Path("logs/digits-seeds"), {})


@pytest.mark.parametrize(
    ("how", "own"),
    [
        ("seeds", [(42, None, None), (43, None, None), (44, None, None)]),
        ("bagging", [(42, None, 42), (43, None, 43), (44, None, 44)]),
        ("folds", [(42, "1/3@42", None), (43, "2/3@42", None), (44, "3/3@42", None)]),
    ],
)
def test_what_members_differ_in(how: str, own: list[tuple[int, str | None, int | None]]) -> None:
    members = made(how)
    found = [tuple(one.settings[name] for name in ("seed_everything", "fold", "bootstrap")) for one in members]
    assert found == own
    assert {one.settings["test_after_fit"] for one in members} == {False}
    assert [one.arguments for one in members][1] == ["fit", "--config", "logs/digits-seeds/member_1.yaml"]


@pytest.mark.parametrize("seed", [True, False])
def test_a_seed_that_is_drawn_or_none_is_0(seed: bool) -> None:
    assert [one.settings["seed_everything"] for one in made(seed=seed)] == [0, 1, 2]


def test_members_write_into_folders_of_their_own() -> None:
    trainer = made()[1].settings["trainer"]
    assert trainer["default_root_dir"] == "logs/digits-seeds/member_1"
    assert trainer["logger"]["init_args"] == {"save_dir": "logs", "name": "digits-seeds/member_1", "version": None}
    kept, stop, record = trainer["callbacks"]
    assert kept["init_args"] == {"monitor": "val/loss", "dirpath": "logs/digits-seeds/member_1/here"}
    assert stop == STOP
    assert record["init_args"] == {"path": "logs/digits-seeds/member_1.json"}
    first, second = made(logger=[CSV, WANDB])[2].settings["trainer"]["logger"]
    assert first["init_args"]["name"] == "digits-seeds/member_2"
    assert second["init_args"] == {
        "save_dir": "logs/digits-seeds/member_2",
        "name": "digits-seeds/member_2",
        "id": None,
        "version": None,
    }
    for logger in (True, False, None):
        assert made(logger=logger)[0].settings["trainer"]["logger"] is logger


def test_snapshots_are_one_fit() -> None:
    (member,) = made("snapshots")
    *_, ensemble, record = member.settings["trainer"]["callbacks"]
    assert ensemble["init_args"]["members"] == "snapshots"
    assert ensemble["init_args"]["cycles"] == 3
    assert record["init_args"] == {"path": "logs/digits-seeds/snapshots.json"}


def test_the_folder_is_beside_the_logs() -> None:
    assert default_folder(settings(), "bagging", "ensemble") == Path("logs/digits-bagging")
    unnamed = {**CSV, "init_args": {"save_dir": "logs", "name": None}}
    assert default_folder(settings(logger=[unnamed]), "folds", "ensemble") == Path("logs/ensemble-folds")
    assert default_folder(settings(logger=False), "seeds", "ensemble") == Path("logs/ensemble-seeds")


def test_differences_are_named() -> None:
    then = {"trainer": {"max_epochs": 3, "callbacks": [1]}, "model": {"lr": 0.1}}
    now = {"trainer": {"max_epochs": 5, "callbacks": [1]}, "model": {"lr": 0.1, "decay": 2}}
    assert list(differences(then, now)) == ["trainer.max_epochs was 3 and is 5", "model.decay was None and is 2"]
    assert list(differences(then, then)) == []


def test_settings_of_a_finished_member_stay() -> None:
    first, other = made()[0], make_members(settings(callbacks=[]), "seeds", 3, Path("logs/digits-seeds"), {})[0]
    first.write_config()
    other.write_config()
    assert yaml.safe_load(first.config.read_text()) == other.settings, "as long as it is not finished"
    other.entry.write({"status": "finished"})
    other.write_config()
    with pytest.raises(
        ValueError, match=r"member_0 in logs/digits-seeds was trained with other settings \(trainer.call"
    ):
        first.write_config()
    assert yaml.safe_load(first.config.read_text()) == other.settings
