from typing import Any

import pytest
import torch

from lightning_recipe.runs import crossval, procedures
from lightning_recipe.runs.fit import Fit
from lightning_recipe.runs.procedure import finished_fits, places_of, refuse_what_fits_cannot_have

SCRIPT = ["python", "train.py"]


@pytest.fixture
def four_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.parametrize(
    ("trainer", "jobs", "gpus", "warm"),
    [
        ({}, 1, [], False),  # data parallel over all four
        ({}, 2, ["0", "1", "2", "3"], True),
        ({"devices": -1}, 8, ["0", "1", "2", "3"], True),
        ({"devices": 1}, 1, [], True),
        ({"devices": 2}, 2, ["0,1", "2,3"], False),
        ({"devices": 2}, 1, [], False),
        ({"accelerator": "cpu"}, 2, [], True),
        ({"accelerator": "cpu", "devices": 2}, 2, [], False),
        ({"devices": 1, "num_nodes": 2}, 1, [], False),
    ],
)
def test_fits_have_gpus_of_their_own(
    four_gpus: None, trainer: dict[str, Any], jobs: int, gpus: list[str], warm: bool
) -> None:
    places = places_of({"trainer": trainer}, jobs, SCRIPT)
    assert (list(places.gpus), places.warm) == (gpus, warm)


def test_more_gpus_than_there_are_and_named_ones_are_refused(four_gpus: None) -> None:
    with pytest.raises(
        ValueError, match=r"--jobs 3 with --trainer.devices 2 needs 6 GPUs, and there are 4: use --jobs 2"
    ):
        places_of({"trainer": {"devices": 2}}, 3, SCRIPT)
    with pytest.raises(
        ValueError, match=r"--jobs 2 gives each fit GPUs of its own, but --trainer.devices \[1, 3\] names"
    ):
        places_of({"trainer": {"devices": [1, 3]}}, 2, SCRIPT)


def test_what_is_left_of_the_fits(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    fits = [Fit(tmp_path, f"fold_{k}", {}) for k in range(3)]
    fits[0].entry.write({"status": "finished"})
    fits[1].entry.write({"status": "failed", "error": "no memory"})
    reasons = r"fold_1: no memory; fold_2: not trained"
    with pytest.raises(ValueError, match=rf"A thing needs at least 2 fits, and 1 of 3 came to an end \({reasons}\)"):
        finished_fits(fits, "A thing", 2)
    assert finished_fits(fits, "A thing", 1) == fits[:1]
    assert "warning: left out is fold_1: no memory" in capsys.readouterr().err
    assert fits[2].entry.claim() is None
    with pytest.raises(ValueError, match=r"fold_2 \(process \d+ on .*\) is being trained elsewhere: give the same"):
        finished_fits(fits, "A thing", 1)


def test_settings_without_an_end_are_refused() -> None:
    for trainer in ({"fast_dev_run": True}, {"enable_checkpointing": False}):
        with pytest.raises(ValueError, match="A thing is made of checkpoints, and these settings keep none"):
            refuse_what_fits_cannot_have({"trainer": trainer}, "A thing")
    with pytest.raises(ValueError, match="A thing is made of fits from their start: leave --ckpt_path out"):
        refuse_what_fits_cannot_have({"trainer": {}, "ckpt_path": "last"}, "A thing")
    refuse_what_fits_cannot_have({"trainer": {}}, "A thing")


def test_an_interrupt_ends_in_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(crossval, "run", interrupted)
    with pytest.raises(SystemExit) as ended:
        procedures.run("crossval", [], None)
    assert ended.value.code == 130
    said = capsys.readouterr().err
    assert said == "\ncrossval was interrupted, and what ran was ended; the same command goes on.\n"
