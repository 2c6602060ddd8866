"""What monitors share: one of them serves all, a measurement that fails ends alone, and training does not notice."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel, RandomDataset
from lightning.pytorch.profilers import SimpleProfiler
from torch.utils.data import DataLoader

from lightning_rules.cadence import DENSELY, LOOK
from lightning_rules.finding import Finding, Severity
from lightning_rules.monitor import Histogram, Monitor, NotApplicable, Sample
from lightning_rules.view import View

pytestmark = pytest.mark.filterwarnings("ignore")
BATCHES = 100


class Watching(Monitor):
    """Remembers which batches it saw, and says so at the end."""

    name, source, kind = "watching", "a test (2026)", "check"

    def _forget(self) -> None:
        super()._forget()
        self.sampled: list[int] = []
        self.losses: list[float] = []
        self.looks = 0

    def before(self, sample: Sample) -> None:
        self.sampled.append(sample.batch_number)

    def after(self, sample: Sample, outputs: Any) -> None:
        self.loss = outputs["loss"]

    def readings(self) -> Any:
        return {"loss": self.loss}

    def take(self, readings: Any) -> float:
        self.looks += 1
        self.losses.append(float(readings["loss"]))
        return self.losses[-1]

    def judge(self, ranks: Sequence[float]) -> list[Finding]:
        return [Finding(self.name, Severity.OK, f"A loss of {ranks[0]:.3g}.")]

    def scalars(self) -> dict[str, float]:
        return {"watched/loss": self.losses[-1]}

    def histograms(self) -> dict[str, Histogram]:
        return {"watched/spread": Histogram([1, 3], [0.0, 0.5, 1.0])}

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "losses": self.losses}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.losses = state_dict["losses"]


class Other(Watching):
    """One that may refuse or fail anywhere, and counts every batch."""

    name = "other"
    fails_in = ""

    def _forget(self) -> None:
        super()._forget()
        self.batches = 0

    def _fail(self, where: str) -> None:
        if where == self.fails_in:
            raise KeyError(f"in {where}")

    def start(self, view: View) -> None:
        if self.fails_in == "nothing to watch":
            raise NotApplicable("there is nothing to watch.")
        self._fail("start")

    def before(self, sample: Sample) -> None:
        self._fail("before")
        super().before(sample)

    def after(self, sample: Sample, outputs: Any) -> None:
        self._fail("after")
        super().after(sample, outputs)

    def each_batch(self, outputs: Any) -> None:
        self._fail("each_batch")
        self.batches += 1

    def readings(self) -> Any:
        self._fail("readings")
        return super().readings()

    def take(self, readings: Any) -> float:
        self._fail("take")
        return super().take(readings)

    def judge(self, ranks: Sequence[float]) -> list[Finding]:
        self._fail("judge")
        alarm = Finding("an-aspect", Severity.WARNING, f"The loss is {ranks[0]:.5f}.", "Look.")
        return [alarm, Finding("an-aspect", Severity.OK, "All is well.")]


def fit(*callbacks: Any, **options: Any) -> BoringModel:
    torch.manual_seed(3)
    module = BoringModel()
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    given = {**quiet, "accelerator": "cpu", "max_epochs": 2, "limit_val_batches": 0, **options}
    ckpt_path = given.pop("ckpt_path", None)
    loader = DataLoader(RandomDataset(32, BATCHES), batch_size=2, shuffle=True)
    L.Trainer(callbacks=list(callbacks), **given).fit(module, loader, ckpt_path=ckpt_path)
    return module


def test_one_hook_serves_all() -> None:
    one, two = Watching(), Other()
    fit(one, two)
    assert one.sampled == two.sampled
    assert one.sampled[:5] == [0, DENSELY, 2 * DENSELY, 3 * DENSELY, 4 * DENSELY]
    assert one.looks == two.looks >= 3
    assert two.batches == BATCHES


def test_between_samples_one_hook_a_batch_is_called() -> None:
    profiler = SimpleProfiler()
    fit(Watching(), Other(), profiler=profiler)
    calls = {name: len(times) for name, times in profiler.recorded_durations.items() if "[Callback]" in name}
    ours = {name.rpartition(".")[2]: count for name, count in calls.items() if "Watching" in name or "Other" in name}
    assert ours["on_train_batch_end"] == BATCHES
    assert ours["on_train_batch_start"] < BATCHES / 3
    assert not {"on_before_zero_grad", "on_before_backward", "on_after_backward", "on_before_optimizer_step"} & set(
        ours
    )


def test_what_holds_is_told_at_the_end_and_alarms_once() -> None:
    one, two = Watching(), Other()
    fit(one, two)
    (held,) = one.findings
    assert (held.severity, held.step) == (Severity.OK, BATCHES)
    (alarm,) = two.findings  # each look words it differently, and what alarmed is never said to hold
    assert (alarm.rule, alarm.severity, alarm.step) == ("an-aspect", Severity.WARNING, LOOK)


@pytest.mark.parametrize(
    "where", ["before", "after", "each_batch", "readings", "take", "judge", "start", "nothing to watch"]
)
def test_a_measurement_that_fails_ends_alone(where: str) -> None:
    one, two = Other(), Watching()
    one.fails_in = where
    fit(one, two)
    (refused,) = one.findings
    assert refused.severity is Severity.INFO
    assert refused.message.startswith("Does not apply: ")
    assert "there is nothing to watch." in refused.message or f"KeyError: 'in {where}'" in refused.message
    assert two.findings[0].severity is Severity.OK
    assert two.looks >= 3


def test_it_leaves_no_trace() -> None:
    torch.manual_seed(7)
    bare = fit()
    drawn = torch.rand(1)
    torch.manual_seed(7)
    watched = fit(Watching(), Other())
    assert torch.equal(torch.rand(1), drawn)
    for ours, theirs in zip(watched.parameters(), bare.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_one_instance_serves_several_fits_and_copies() -> None:
    rule = Watching()
    fit(rule)
    first = rule.sampled
    fit(rule)
    assert rule.sampled == first
    assert copy.deepcopy(rule).sampled == first
    assert pickle.loads(pickle.dumps(rule)).findings == rule.findings


def test_a_resumed_run_goes_on_with_its_windows(tmp_path: Path) -> None:
    first, again = Watching(), Watching()
    saves = L.callbacks.ModelCheckpoint(tmp_path, save_last=True)
    fit(first, saves, max_epochs=1, enable_checkpointing=True)
    fit(again, ckpt_path=tmp_path / "last.ckpt")
    saved = len(first.losses) - 1  # the last look comes after the checkpoint
    assert again.losses[:saved] == first.losses[:saved]
    assert len(again.losses) > saved >= 2
    assert again._cadence.batches == BATCHES
    assert again.sampled[0] >= BATCHES / 2


def test_an_error_can_stop_the_run() -> None:
    class Strict(Other):
        def judge(self, ranks: Sequence[float]) -> list[Finding]:
            return [Finding(self.name, Severity.ERROR, "It is wrong.", "Stop.")]

    rule = Strict(on_error="raise")
    with pytest.raises(RuntimeError, match=r"other: It is wrong\. Stop\."):
        fit(rule)
    assert rule.batches == LOOK
    fit(Watching(), rule, max_epochs=0)  # hooks that rested when it failed are awake again
    assert "on_train_batch_end" not in vars(rule)


@pytest.mark.parametrize("overhead", [0.0, 1.0, -1.0])
def test_the_share_of_time_is_a_share(overhead: float) -> None:
    with pytest.raises(ValueError, match="a share of the time between 0 and 1, but got"):
        Watching(overhead)


def test_several_optimisers_accumulation_and_no_loss() -> None:
    """Whatever training_step returns goes to those that ask for it."""

    class Manual(BoringModel):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(self.layer(batch).sum())
            optimizer.step()

    rule = Watching()
    rule.after = lambda sample, outputs: setattr(rule, "loss", torch.tensor(len(outputs)))  # type: ignore[method-assign]
    trainer = L.Trainer(accelerator="cpu", max_steps=20, limit_val_batches=0, callbacks=[rule], logger=False,
                        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)  # fmt: skip
    trainer.fit(Manual(), DataLoader(RandomDataset(32, 20), batch_size=1))
    assert rule.losses[-1] == 0
