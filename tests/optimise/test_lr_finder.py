"""lr-finder: a good rate for the run as it is, and otherwise no trace."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import pytorch_lightning
import torch
import torch.nn.functional as F
from lightning.pytorch.plugins import MixedPrecision
from PIL import Image
from timm.optim import SGDP, Lookahead
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, TensorDataset

from lightning_rules import GradientClipping, LargestBatchSize, LRFinder, Severity, record
from lightning_rules.trial_runs import TrialRuns

QUIET = dict.fromkeys(("enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
GOOD = (1e-3, 1e-1)  # rates of Adam that train this network well


def data(count: int = 512) -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(count, 10, generator=generator)
    return TensorDataset(inputs, inputs[:, :4].argmax(1))


def loader(batch_size: int = 16, **options: Any) -> DataLoader[Any]:
    return DataLoader(data(), batch_size, shuffle=True, **options)


class Network(L.LightningModule):
    """Everything that keeps state: batch norm, dropout, metrics by hand, an optimiser with moments."""

    def __init__(self, lr: float = 1e-5, optimizer: Any = torch.optim.Adam, **options: Any) -> None:
        super().__init__()
        self.save_hyperparameters("lr")
        self.network = nn.Sequential(
            nn.Linear(10, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 4)
        )
        self.optimizer, self.options = optimizer, options
        self.rates: list[list[float]] = []
        self.steps = 0

    def loss(self, batch: Any) -> Tensor:
        return F.cross_entropy(self.network(batch[0]), batch[1])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.steps += 1
        loss = self.loss(batch)
        self.log("loss", loss)
        return loss

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.rates.append([group["lr"] for group in self.trainer.optimizers[0].param_groups])

    def configure_optimizers(self) -> Any:
        return self.optimizer(self.parameters(), lr=self.hparams["lr"], **self.options)


def fit(model: Any, *callbacks: Any, batches: Any = None, package: Any = L, **options: Any) -> Any:
    torch.manual_seed(1)
    options = {"logger": False, "max_epochs": 5, "accelerator": "cpu", **QUIET, **options}
    trainer = package.Trainer(callbacks=[*callbacks], **options)
    trainer.fit(model, loader() if batches is None else batches)
    return trainer


def network(kind: Any = Network, **options: Any) -> Any:
    torch.manual_seed(2)
    return kind(**options)


def found(finder: LRFinder) -> float:
    assert finder.suggestion is not None, finder.findings
    return finder.suggestion


def refusal(model: Any, **options: Any) -> str:
    finder = LRFinder()
    fit(model, finder, **options)
    assert finder.suggestion is None
    (finding,) = finder.findings
    return finding.message


def test_trains_with_the_rate_it_found() -> None:
    finder, model = LRFinder(), network()
    fit(model, finder)
    assert GOOD[0] < found(finder) < GOOD[1]
    assert model.rates == [[found(finder)]] * 160
    assert model.hparams["lr"] == found(finder)
    (finding,) = finder.findings
    assert finding.message.startswith(f"Set the learning rate to {found(finder):.2e} (it was 1.00e-05): of ")
    assert 400 < finding.evidence["steps"] <= 800


@pytest.mark.parametrize(
    ("optimizer", "options", "good"),
    [
        (torch.optim.SGD, {"momentum": 0.9}, (1e-2, 1.0)),
        (torch.optim.Adam, {"amsgrad": True}, GOOD),
        (torch.optim.AdamW, {"fused": True}, GOOD),
        (torch.optim.RMSprop, {}, (1e-4, 5e-2)),
        (torch.optim.Adagrad, {"initial_accumulator_value": 0.1}, (1e-3, 1.0)),
        (lambda parameters, lr: Lookahead(torch.optim.Adam(parameters, lr)), {}, GOOD),
        (SGDP, {"momentum": 0.9}, (1e-3, 1.0)),
    ],
    ids=["momentum", "amsgrad", "fused", "rmsprop", "state from the start", "timm: one within another", "timm"],
)
def test_any_optimiser(optimizer: Any, options: dict[str, Any], good: tuple[float, float]) -> None:
    finder = LRFinder(apply=False)
    trained = network(optimizer=optimizer, **options)
    fit(trained, finder, max_epochs=3)
    assert good[0] < found(finder) < good[1]
    plain = network(optimizer=optimizer, **options)
    fit(plain, max_epochs=3)
    assert_same(trained, plain)


def test_an_optimiser_that_calls_its_closure_several_times() -> None:
    class Linear(Network):
        def __init__(self) -> None:
            super().__init__(optimizer=torch.optim.LBFGS, max_iter=2)
            self.network = nn.Linear(10, 4)

    finder, whole = LRFinder(apply=False), DataLoader(data(), 512)
    trained, plain = network(Linear), network(Linear)
    fit(trained, finder, batches=whole, max_epochs=30)
    fit(plain, batches=whole, max_epochs=30)
    assert 1e-2 < found(finder) < 10
    assert_same(trained, plain)


def assert_same(ours: Any, plain: Any) -> None:
    for (name, mine), theirs in zip(ours.state_dict().items(), plain.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs), name


@pytest.mark.parametrize("workers", [0, 1])
def test_leaves_no_trace(workers: int, tmp_path: Path) -> None:
    """Weights, buffers, moments, random numbers, order of batches, logs and counters: bit for bit."""
    runs = []
    for name, callbacks in (("with", [LRFinder(apply=False)]), ("without", [])):
        logger = L.loggers.CSVLogger(tmp_path, name=name, flush_logs_every_n_steps=1)
        model = network()
        trainer = fit(
            model, *callbacks, logger=logger, log_every_n_steps=1, batches=loader(64, num_workers=workers), max_epochs=4
        )
        runs.append((model, trainer, torch.get_rng_state(), Path(logger.log_dir, "metrics.csv").read_text()))
    (ours, our_trainer, our_numbers, our_log), (plain, trainer, numbers, log) = runs
    assert callbacks == []
    assert_same(ours, plain)
    assert ours.steps == plain.steps == 32
    assert torch.equal(our_numbers, numbers)
    assert our_log == log
    assert our_trainer.global_step == trainer.global_step
    assert our_trainer.fit_loop.state_dict() == trainer.fit_loop.state_dict()
    for mine, theirs in zip(our_trainer.optimizers, trainer.optimizers, strict=True):
        assert str(mine.state_dict()) == str(theirs.state_dict())
        assert vars(mine).keys() == vars(theirs).keys()


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_mixed_precision(precision: str) -> None:
    """The scale of a GradScaler, which steps move, is put back too."""
    trained = []
    for callbacks in ([LRFinder(apply=False)], []):
        scaler = torch.amp.GradScaler("cpu", growth_interval=10) if precision == "16-mixed" else None
        plugin = MixedPrecision(precision, "cpu", scaler)
        model = network()
        fit(model, *callbacks, plugins=[plugin])
        trained.append((model, callbacks, scaler.get_scale() if scaler is not None else None))
    (ours, (finder,), our_scale), (plain, _, scale) = trained
    assert GOOD[0] < found(finder) < GOOD[1]
    assert_same(ours, plain)
    assert our_scale == scale


def test_beside_largest_batch_size() -> None:
    """The batch size is chosen first, and the rate is found for it."""
    finder, size, model = LRFinder(), LargestBatchSize(ceiling=64), network()
    fit(model, finder, size, max_epochs=10)
    assert size.batch_size == 64
    assert model.steps == 80
    assert [rate for (rate,) in model.rates] == pytest.approx([found(finder)] * 80)
    assert finder.findings[0].evidence["rate_before"] == pytest.approx(1e-5 * 2)


def test_after_a_search_only_the_rate_differs() -> None:
    finder, ours = LRFinder(), network()
    fit(ours, finder)
    plain = network(lr=found(finder))
    fit(plain)
    assert_same(ours, plain)


def test_ratios_between_groups_are_kept() -> None:
    """Lightning's finder gives all groups one rate."""

    class Slower(Network):
        def configure_optimizers(self) -> Any:
            first, *rest = self.network
            groups = [{"params": first.parameters(), "lr": 1e-6}, {"params": nn.Sequential(*rest).parameters()}]
            return torch.optim.Adam(groups, lr=1e-5)

    finder, model = LRFinder(), network(Slower)
    fit(model, finder)
    assert model.rates[0] == pytest.approx([found(finder) / 10, found(finder)])


class WarmUp(Network):
    """Starts at a hundredth of the rate, climbs for 20 steps, and falls along a cosine to a floor."""

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        floor = self.hparams["lr"] / 50
        climb = torch.optim.lr_scheduler.LinearLR(optimizer, 0.01, total_iters=20)
        fall = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 140, floor)
        both = torch.optim.lr_scheduler.SequentialLR(optimizer, [climb, fall], [20])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": both, "interval": "step"}}


def test_warm_up_and_decay_keep_their_shape() -> None:
    finder, model = LRFinder(), network(WarmUp)
    fit(model, finder)
    plain = network(WarmUp, lr=found(finder))
    fit(plain)
    assert max(max(model.rates)) == pytest.approx(found(finder))
    assert [rate for (rate,) in model.rates] == pytest.approx([rate for (rate,) in plain.rates])
    assert finder.findings[0].evidence["rate"] == finder.findings[0].evidence["best_after_short_runs"]


def test_accumulation_uses_as_many_batches_a_step() -> None:
    class Counting(Network):
        seen = 0

        def loss(self, batch: Any) -> Tensor:
            type(self).seen += 1
            return super().loss(batch)

    finder = LRFinder(apply=False)
    fit(network(Counting), finder, accumulate_grad_batches=4, max_epochs=20)
    steps = finder.findings[0].evidence["steps"]
    assert Counting.seen == 4 * steps + 32 * 20


def test_accumulated_gradients_are_those_of_the_large_batch() -> None:
    """Four batches of 16 give the losses of one batch of 64."""

    class Plain(Network):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.network = nn.Sequential(nn.Linear(10, 32), nn.Tanh(), nn.Linear(32, 4))

    losses = []
    for batch_size, accumulate in ((64, 1), (16, 4)):

        class Watch(L.Callback):
            def on_train_start(self, trainer: Any, pl_module: Any) -> None:
                losses.append(list(TrialRuns(trainer, pl_module).run([0.01] * 30)))

        fit(network(Plain), Watch(), batches=loader(batch_size), accumulate_grad_batches=accumulate, max_epochs=1)
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[0][-1] < losses[0][0]


def test_a_trial_at_the_runs_own_rate_is_the_run() -> None:
    """Clipping by the Trainer, weight decay and momentum act as they will."""
    seen: list[float] = []
    trial: list[float] = []

    class Watch(L.Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            trial.extend(TrialRuns(trainer, pl_module).run([0.1] * 40))

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *args: Any) -> None:
            seen.append(float(outputs["loss"]))

    model = network(lr=0.1, optimizer=torch.optim.SGD, momentum=0.9, weight_decay=0.1)
    model.network[3].p = 0.0
    fit(model, Watch(), batches=DataLoader(data(), 16), max_epochs=2, gradient_clip_val=0.1)
    assert trial == seen[:40]


def test_passes_are_shuffled_as_in_the_run() -> None:
    """A sampler that shuffles by the epoch is told which pass begins."""
    seen: list[float] = []
    trial: list[float] = []

    class Watch(L.Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            trial.extend(TrialRuns(trainer, pl_module).run([0.01] * 24))

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *args: Any) -> None:
            seen.append(float(outputs["loss"]))

    model, dataset = network(lr=0.01), data()
    model.network[3].p = 0.0
    order = DistributedSampler(dataset, num_replicas=1, rank=0)
    fit(model, Watch(), batches=DataLoader(dataset, 64, sampler=order), max_epochs=3)
    assert trial == seen


def test_rules_that_clip_act_in_the_trials_and_count_none_of_their_steps() -> None:
    clipping = GradientClipping(method="max-norm", max_norm=1e-3)
    losses: list[float] = []

    class Watch(L.Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            losses.extend(TrialRuns(trainer, pl_module).run([0.1] * 20))

    fit(network(optimizer=torch.optim.SGD), clipping, Watch(), max_epochs=1)
    assert abs(losses[-1] - losses[0]) < 0.5  # 20 steps of 1e-4 lead nowhere
    assert {finding.evidence.get("steps") for finding in clipping.findings} == {None, 32}


def test_a_rule_that_alarms_in_a_trial_tells_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients that are not finite, under a finite loss: more than the budget of a clipping rule allows."""
    told: list[Any] = []
    monkeypatch.setattr(record, "announce", lambda findings, loud: told.extend(findings))

    class Root(Network):
        broken = True

        def loss(self, batch: Any) -> Tensor:
            nothing = (self.network[0].weight * 0).sum().sqrt()  # its gradient is 0 times infinity
            return super().loss(batch) + (nothing * 0 if self.broken else 0)

    class Watch(L.Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            list(TrialRuns(trainer, pl_module).run([0.1] * 5))
            assert not trainer.should_stop
            pl_module.broken = False

    clipping, model = GradientClipping(method="max-norm", max_skipped=1), network(Root)
    fit(model, clipping, Watch(), max_epochs=1)
    assert [finding.severity for finding in told] == [Severity.INFO, Severity.INFO]
    assert model.steps == 32


def test_negative_losses() -> None:
    class Negative(Network):
        def loss(self, batch: Any) -> Tensor:
            return super().loss(batch) - 100

    ours, plain = LRFinder(apply=False), LRFinder(apply=False)
    fit(network(Negative), ours)
    fit(network(), plain)
    assert found(ours) == pytest.approx(found(plain), rel=0.05)


def test_a_step_that_raises_at_a_high_rate_means_too_high() -> None:
    class Strict(Network):
        def loss(self, batch: Any) -> Tensor:
            logits = self.network(batch[0])
            if logits.abs().max() > 50:
                raise ValueError("Expected parameter logits to satisfy the constraint.")
            return F.cross_entropy(logits, batch[1])

    finder, model = LRFinder(), network(Strict)
    fit(model, finder)
    assert GOOD[0] < found(finder) < GOOD[1]


def test_loss_as_a_dict_and_a_stream_of_batches() -> None:
    class Dict(Network):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return {"loss": self.loss(batch)}

    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter(data())

    finder = LRFinder(apply=False)
    fit(network(Dict), finder, batches=DataLoader(Stream(), 16), limit_train_batches=30)
    assert GOOD[0] < found(finder) < GOOD[1]


def test_pytorch_lightning() -> None:
    class Small(pytorch_lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = nn.Linear(10, 4)
            self.lr = 1e-5

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self.network(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), self.lr)

    finder, model = LRFinder(), Small()
    fit(model, finder, package=pytorch_lightning)
    assert 1e-3 < found(finder) < 1
    assert model.lr == found(finder)


def test_curve_and_candidates_as_files(tmp_path: Path) -> None:
    finder = LRFinder()
    trainer = fit(network(), finder, logger=L.loggers.CSVLogger(tmp_path))
    rules = Path(trainer.log_dir, "rules")
    written = json.loads((rules / "lr-finder.json").read_text())
    assert written["rate"] == found(finder)
    assert written["rate_before"] == 1e-5
    assert len(written["range_test"]["rates"]) == len(written["range_test"]["losses"]) > 50
    assert {len(one["losses"]) for one in written["candidates"] if one["loss"] is not None} == {100}
    with Image.open(rules / "lr-finder.png") as picture:
        assert min(picture.size) > 400
    assert not list(rules.glob(".*"))


def test_a_folder_that_cannot_be_written_does_not_end_the_run(tmp_path: Path, caplog: Any) -> None:
    (tmp_path / "rules").write_text("in the way")
    finder, model = LRFinder(), network()
    fit(model, finder, default_root_dir=tmp_path)
    assert model.rates[-1] == [found(finder)]


def test_refuses_flat_and_noisy_losses() -> None:
    class Flat(Network):
        def loss(self, batch: Any) -> Tensor:
            return super().loss(batch) * 0 + 1

    class Noise(Network):
        def loss(self, batch: Any) -> Tensor:
            return super().loss(batch) * 1e-9 + torch.randn(())

    for kind in (Flat, Noise):
        model = network(kind)
        assert "do not lower the loss beyond its noise" in refusal(model)
        assert model.rates[-1] == [1e-5]


def test_refuses_what_it_cannot_search() -> None:
    class Manual(Network):
        automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            pass

    class NoLoss(Network):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            pass

    class Unknown:
        def __init__(self, optimizer: Any) -> None:
            self.optimizer = optimizer

        def step(self, epoch: int) -> None:
            pass

        def state_dict(self) -> dict[str, Any]:
            return {}

        load_state_dict = state_dict

    class Scheduled(Network):
        def configure_optimizers(self) -> Any:
            optimizer: Any = super().configure_optimizers()
            return {"optimizer": optimizer, "lr_scheduler": Unknown(optimizer)}

        def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
            scheduler.step(self.current_epoch)

    assert "optimises manually" in refusal(network(Manual))
    assert "training_step returned no loss" in refusal(network(NoLoss))
    assert "Unknown holds its rates in no place" in refusal(network(Scheduled))
    assert "all learning rates are 0" in refusal(network(lr=0.0))
    assert "can be read only once" in refusal(network(), batches=(batch for batch in loader()))
    assert "the whole run has 5 steps" in refusal(network(), max_epochs=1, max_steps=5)


def test_a_module_that_fails_fails_in_its_own_words() -> None:
    class Broken(Network):
        def loss(self, batch: Any) -> Tensor:
            raise KeyError("nothing here")

    finder = LRFinder()
    with pytest.raises(KeyError, match="nothing here"):
        fit(network(Broken), finder)
    assert "a trial step failed: KeyError: 'nothing here'" in finder.findings[0].message


def test_a_resumed_run_goes_on_at_the_rate_that_was_found(tmp_path: Path) -> None:
    finder, model = LRFinder(), network()
    trainer = fit(model, finder, max_epochs=2)
    path = tmp_path / "first.ckpt"
    trainer.save_checkpoint(path)
    again, resumed = LRFinder(), network()
    second = L.Trainer(max_epochs=3, logger=False, accelerator="cpu", callbacks=[again], **QUIET)
    second.fit(resumed, loader(), ckpt_path=path)
    assert resumed.rates == [[found(finder)]] * 32
    assert [finding.message for finding in again.findings] == [
        finder.findings[0].message,
        "Does not apply: the run is resumed, and goes on at the rate it had.",
    ]


@pytest.mark.parametrize("budget", [419, 0, -1, 500.0, True, "many"])
def test_refuses_a_budget_too_small(budget: Any) -> None:
    with pytest.raises(ValueError, match="Expected `budget` to be a whole number of steps, at least 420, but got"):
        LRFinder(budget=budget)
