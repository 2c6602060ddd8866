"""Where a run stood at its best, as its checkpoints tell it."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_recipe.runs.stopping_point import batches_of_an_epoch, best_of, config_of, stopping_point


def loops(current: int, total: int, is_last: bool) -> dict[str, Any]:
    progress = {"current": {"ready": current}, "total": {"ready": total}, "is_last_batch": is_last}
    return {"fit_loop": {"epoch_loop.batch_progress": progress}}


def held(best: str = "", **changes: Any) -> dict[str, Any]:
    keeper = {"monitor": "val/loss", "best_model_path": best, "current_score": torch.tensor(0.25)}
    other = {"monitor": None, "best_model_path": "other.ckpt"}
    made = {"epoch": 2, "global_step": 30, "state_dict": {}, "loops": loops(10, 30, True), "lr_schedulers": []}
    return {**made, "callbacks": {"Other": other, "ModelCheckpoint": keeper, "x": {}}, **changes}


def write(path: str, checkpoint: dict[str, Any]) -> Path:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    torch.save(checkpoint, path)
    return Path(path)


@pytest.mark.parametrize(
    ("epoch", "current", "total", "is_last", "batches"),
    [(2, 10, 30, True, 10), (0, 10, 10, True, 10), (2, 4, 24, False, 10), (0, 4, 4, False, None)],
)
def test_batches_of_an_epoch(epoch: int, current: int, total: int, is_last: bool, batches: int | None) -> None:
    assert batches_of_an_epoch({"epoch": epoch, "loops": loops(current, total, is_last)}) == batches


def test_the_newest_checkpoint_names_the_best_wherever_the_run_lies_now() -> None:
    best = write("run/checkpoints/best.ckpt", held("elsewhere/best.ckpt", global_step=20, epoch=1))
    write("run/checkpoints/last.ckpt", held("elsewhere/best.ckpt"))
    found = stopping_point(Path("run"))
    assert (found.checkpoint, found.step, found.epoch, found.batches) == (best, 20, 1, 10)
    assert (found.monitor, found.score, found.waits) == ("val/loss", 0.25, False)
    assert found.rate is None
    named = stopping_point(Path("run"), "run/checkpoints/last.ckpt")
    assert named.step == 30
    best.unlink()
    with pytest.raises(FileNotFoundError, match=r"best checkpoint of run, elsewhere/best\.ckpt, is gone: name another"):
        best_of(Path("run"))


def test_checkpoints_of_runs_below_are_not_its_own() -> None:
    own = write("run/checkpoints/own.ckpt", held())
    write("run/refit/version_0/checkpoints/other.ckpt", held())
    Path("run/config.yaml").write_text("")
    Path("run/refit/version_0/config.yaml").write_text("")
    assert best_of(Path("run")) == own


def test_a_rate_that_waits_for_a_metric_is_known() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    waiting = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer).state_dict()
    steps = torch.optim.lr_scheduler.StepLR(optimizer, 1).state_dict()
    held_rate = stopping_point(Path(), str(write("c.ckpt", held(optimizer_states=[optimizer.state_dict()])))).rate
    assert held_rate == 0.1
    assert stopping_point(Path(), str(write("a.ckpt", held(lr_schedulers=[steps, waiting])))).waits
    assert not stopping_point(Path(), str(write("b.ckpt", held(lr_schedulers=[steps])))).waits


def test_what_is_no_finished_run_is_refused() -> None:
    with pytest.raises(FileNotFoundError, match="There is no folder run: give the log folder of a run, as in --run"):
        config_of(Path("run"))
    Path("run").mkdir()
    with pytest.raises(FileNotFoundError, match=r"run holds no config\.yaml, which `fit` writes into the log folder"):
        config_of(Path("run"))
    Path("run/version_0").mkdir()
    Path("run/version_0/config.yaml").write_text("")
    with pytest.raises(FileNotFoundError, match="but run/version_0 has one: name the folder of one run"):
        config_of(Path("run"))
    with pytest.raises(FileNotFoundError, match="No checkpoint lies below run: name that of the run with --ckpt_path"):
        best_of(Path("run"))
    path = write("new.ckpt", held(global_step=0))
    with pytest.raises(ValueError, match=r"new\.ckpt does not tell how many steps were taken"):
        stopping_point(Path("run"), str(path))
    Path("broken.ckpt").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"broken\.ckpt is damaged or no checkpoint"):
        stopping_point(Path("run"), "broken.ckpt")
