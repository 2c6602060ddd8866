"""seed-everything: the same bits twice, whatever draws them; nothing of the user's overridden; all put back."""

from __future__ import annotations

import os
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import pytest
import pytorch_lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from lightning_rules import SeedEverything, Severity, check
from lightning_rules.reproduce.seeded import Seeded, judge, judge_weights
from lightning_rules.reproduce.streams import derive

pytestmark = pytest.mark.filterwarnings("ignore")
QUIET = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)


@pytest.fixture(autouse=True)
def _unseeded_program(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS", "CUBLAS_WORKSPACE_CONFIG"):
        monkeypatch.delenv(name, raising=False)


def augmented(index: int) -> dict[str, Any]:
    """Noise from each of the three generators that augmentations use."""
    noise = torch.tensor([float(torch.rand(())), np.random.rand(), random.random()])
    return {"index": index, "noise": noise}


class Augmented(Dataset):
    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> Any:
        return augmented(index)


class Stream(IterableDataset):
    def __iter__(self) -> Any:
        return map(augmented, range(16))


class Data(L.LightningDataModule):
    def train_dataloader(self) -> Any:
        return DataLoader(Augmented(), 4, shuffle=True)


class Model(L.LightningModule):
    """Draws in configure_model, on_train_start, data and dropout; keeps what it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []
        self.order: list[int] = []

    def configure_model(self) -> None:
        if not hasattr(self, "net"):
            self.net = nn.Sequential(nn.Linear(3, 8), nn.Dropout(), nn.Linear(8, 1))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.seen.append(batch["noise"])
        self.order += batch["index"].tolist()
        return self.net(batch["noise"]).square().mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 0.01)


class Manual(Model):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        for optimizer in self.optimizers():
            optimizer.zero_grad()
            self.manual_backward(self.net(batch["noise"]).square().mean())
            optimizer.step()
        super().training_step(batch, batch_idx)

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(self.net[0].parameters(), 0.1), torch.optim.SGD(self.net[2].parameters(), 0.1)]


def fit(rule: Any, data: Any = None, model: Any = None, ckpt_path: Any = None, package: Any = L, **options: Any) -> Any:
    torch.rand(random.SystemRandom().randrange(50))  # where the generators stand before must not matter
    random.random(), np.random.rand()
    model = model or Model()
    callbacks = [*([rule] if rule else []), *options.pop("callbacks", [])]
    trainer = package.Trainer(accelerator="cpu", callbacks=callbacks, **{**QUIET, "max_epochs": 2, **options})
    data = DataLoader(Augmented(), 4, shuffle=True) if data is None else data
    trainer.fit(model, data, ckpt_path=ckpt_path)
    return model, trainer


def same(first: Any, second: Any) -> bool:
    alike = first.order == second.order and torch.equal(torch.cat(first.seen), torch.cat(second.seen))
    weights = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return alike and all(torch.equal(one, other) for one, other in weights)


RUNS = {
    "main-process": (Model, lambda: DataLoader(Augmented(), 4, shuffle=True)),
    "workers": (Model, lambda: DataLoader(Augmented(), 4, shuffle=True, num_workers=2)),
    "persistent": (Model, lambda: DataLoader(Augmented(), 4, shuffle=True, num_workers=2, persistent_workers=True)),
    "stream": (Model, lambda: DataLoader(Stream(), 4)),
    "datamodule": (Model, Data),
    "manual": (Manual, Data),
}


@pytest.mark.parametrize("case", RUNS)
def test_one_seed_gives_the_same_bits(case: str) -> None:
    model, data = RUNS[case]
    first, second, other = (fit(SeedEverything(seed), data(), model())[0] for seed in (7, 7, 8))
    assert same(first, second)
    assert not torch.equal(torch.cat(first.seen), torch.cat(other.seen))
    noise = torch.cat(first.seen)
    assert len(noise.unique()) == noise.numel(), "nothing is drawn twice: by generators, by workers or by epochs"


def test_the_planted_twin_differs() -> None:
    """Without the rule the same two runs differ: the test above can fail."""
    assert not same(fit(None)[0], fit(None)[0])


def test_in_the_other_namespace() -> None:
    class Other(pytorch_lightning.LightningModule):
        __init__, configure_model = Model.__init__, Model.configure_model  # type: ignore[assignment]
        training_step, configure_optimizers = Model.training_step, Model.configure_optimizers

    def made() -> Any:
        model = pytorch_lightning.LightningModule.__new__(Other)
        pytorch_lightning.LightningModule.__init__(model)
        model.seen, model.order = [], []
        return model

    first, second = (
        fit(SeedEverything(7), DataLoader(Augmented(), 4, num_workers=1), made(), package=pytorch_lightning)[0]
        for _ in range(2)
    )
    assert same(first, second)


def test_fresh_says_its_seed_which_repeats_the_run() -> None:
    rule = SeedEverything(mode="fresh")
    first, _ = fit(rule)
    seed = rule.findings[0].evidence["seed"]
    assert rule.findings[0].message == f"Drew the seed {seed}; SeedEverything({seed}) repeats this run."
    assert same(first, fit(SeedEverything(seed))[0])
    assert not same(first, fit(rule)[0]), "the same instance draws anew for the next fit"


def test_the_checkpoint_holds_seed_flags_and_versions(tmp_path: Path) -> None:
    rule = SeedEverything(mode="fresh", deterministic=True)
    _, trainer = fit(rule, enable_checkpointing=True, default_root_dir=tmp_path)
    checkpoint = torch.load(trainer.checkpoint_callback.best_model_path, weights_only=True)
    (state,) = [state for key, state in checkpoint["callbacks"].items() if key.startswith("SeedEverything")]
    assert state["seed"] == rule.findings[0].evidence["seed"]
    assert state["flags"]["deterministic_algorithms"] is True
    assert state["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert {"Python", "numpy", "lightning", "timm"} <= state["versions"].keys()
    evidence = rule.findings[0].evidence
    assert evidence["version/numpy"] == np.__version__
    assert evidence["deterministic_algorithms"] is True


@pytest.mark.parametrize("mode", ["fixed", "fresh"])
def test_a_run_resumed_after_an_epoch_goes_on_as_if_unbroken(mode: Any, tmp_path: Path) -> None:
    class Save(L.Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch == 1:
                trainer.save_checkpoint(tmp_path / "a.ckpt")

    rule = SeedEverything(7 if mode == "fixed" else None, mode)
    trainer = L.Trainer(accelerator="cpu", callbacks=[rule, Save()], max_epochs=4, **QUIET)
    whole = Model()
    trainer.fit(whole, DataLoader(Augmented(), 4, shuffle=True))
    again = SeedEverything(7 if mode == "fixed" else None, mode)
    resumed, _ = fit(again, ckpt_path=tmp_path / "a.ckpt", max_epochs=4)
    assert again.findings[-1].evidence["seed"] == rule.findings[-1].evidence["seed"]
    assert resumed.order == whole.order[-len(resumed.order) :]
    assert torch.equal(torch.cat(resumed.seen), torch.cat(whole.seen)[-len(resumed.order) :])
    assert all(torch.equal(a, b) for a, b in zip(resumed.parameters(), whole.parameters(), strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_resumed_within_an_epoch_replays_nothing(workers: int, tmp_path: Path) -> None:
    def data() -> Any:
        return DataLoader(Augmented(), 4, shuffle=True, num_workers=workers)

    save = ModelCheckpoint(tmp_path, "a", every_n_train_steps=6)  # four steps an epoch
    options = {"enable_checkpointing": True, "max_epochs": -1}
    broken, _ = fit(SeedEverything(7), data(), callbacks=[save], max_steps=6, **options)
    resumed, _ = fit(SeedEverything(7), data(), ckpt_path=tmp_path / "a.ckpt", max_steps=12, **options)
    noise = torch.cat(broken.seen + resumed.seen)
    assert len(resumed.seen) == 6
    assert len(noise.unique()) == noise.numel()


CALLED = "worker_init_fn was called"


def own(worker: int) -> None:
    Path(f"worker-{worker}").write_text(CALLED)


def test_what_the_user_gave_a_loader_is_kept_and_the_rest_given_back() -> None:
    generator = torch.Generator().manual_seed(3)
    given = DataLoader(Augmented(), 4, num_workers=2, worker_init_fn=own, generator=generator)
    plain = DataLoader(Augmented(), 4, shuffle=True, num_workers=2)
    for loader in (given, plain):
        fit(SeedEverything(7), loader)
    assert Path("worker-0").read_text() == Path("worker-1").read_text() == CALLED
    assert given.worker_init_fn is own
    assert given.generator is generator
    assert not torch.equal(generator.get_state(), torch.Generator().manual_seed(3).get_state()), "and it was used"
    assert plain.generator is None
    assert plain.worker_init_fn is None


@pytest.mark.parametrize("fails", [False, True])
def test_flags_and_variables_are_set_and_put_back(fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "3")
    seen: list[Any] = []

    def now() -> Any:
        cudnn = torch.backends.cudnn
        names = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS", "CUBLAS_WORKSPACE_CONFIG")
        variables = [os.environ.get(name) for name in names]
        return [torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark, *variables]

    class Look(Model):
        def on_train_start(self) -> None:
            seen.append((now(), self.trainer.strategy.process_dataloader))
            if fails:
                raise KeyError("here")

    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    before = now()
    model = Look()
    try:
        fit(SeedEverything(7, deterministic=True), model=model)
    except KeyError:
        assert fails
    assert seen[0][0] == [True, True, False, "7", "1", ":4096:8"]
    assert now() == before
    assert "process_dataloader" not in vars(model.trainer.strategy)


def test_deterministic_refuses_what_has_no_fixed_order() -> None:
    class Scatter(Model):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            torch.zeros(3).put_(torch.tensor([0, 0]), torch.tensor([1.0, 2.0]))  # either may win
            return super().training_step(batch, batch_idx)

    fit(SeedEverything(7), model=Scatter())
    with pytest.raises(RuntimeError, match="deterministic"):
        fit(SeedEverything(7, deterministic=True), model=Scatter())


def test_without_arguments_one_process_is_left_alone() -> None:
    def run(rule: Any) -> Any:
        L.seed_everything(5, verbose=False)
        model = Model()
        trainer = L.Trainer(accelerator="cpu", callbacks=[rule] if rule else [], max_epochs=2, **QUIET)
        trainer.fit(model, DataLoader(Augmented(), 4, shuffle=True, num_workers=2))
        return model

    rule = SeedEverything()
    assert same(run(rule), run(None))
    (finding,) = rule.findings
    assert finding.severity is Severity.OK
    assert finding.evidence["seed"] == 5


def test_check_leaves_the_program_as_it_was() -> None:
    before = torch.get_rng_state(), dict(os.environ)
    check(Model(), DataLoader(Augmented(), 4))
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == dict(os.environ)


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ({"seed": -1}, ValueError, "between 0 and 4294967295, but got -1"),
        ({"seed": 2**32}, ValueError, "between 0 and 4294967295, but got 4294967296"),
        ({"seed": 1.5}, TypeError, "a whole number, but got 1.5 of type float"),
        ({"seed": True}, TypeError, "a whole number, but got True of type bool"),
        ({"seed": 3, "mode": "fresh"}, ValueError, "mode='fresh' takes no seed, but got seed=3"),
        ({"seed": 3, "mode": "workers"}, ValueError, "mode='workers' takes no seed"),
        ({"mode": "fixed"}, ValueError, "mode='fixed' needs a seed"),
        ({"mode": "frozen"}, ValueError, "'fixed', 'fresh' or 'workers', but got 'frozen'"),
    ],
)
def test_wrong_arguments_get_one_sentence(arguments: Any, error: Any, sentence: str) -> None:
    with pytest.raises(error, match=sentence.replace("(", r"\(")) as raised:
        SeedEverything(**arguments)
    assert "\n" not in str(raised.value)


def test_two_seeds_are_refused_but_the_default_steps_aside() -> None:
    trainer = L.Trainer(accelerator="cpu", callbacks=[SeedEverything(1), SeedEverything(2)], **QUIET)
    with pytest.raises(ValueError, match="Expected one SeedEverything with a seed, but got 2"):
        trainer.fit(Model(), Data())
    default, rule = SeedEverything(), SeedEverything(7)
    trainer = L.Trainer(accelerator="cpu", callbacks=[default, rule], max_epochs=2, **QUIET)
    trainer.fit(model := Model(), DataLoader(Augmented(), 4, shuffle=True))
    assert default.findings == []
    assert same(model, fit(SeedEverything(7))[0])


def test_weights_from_before_the_seed_are_told() -> None:
    class Early(Model):
        def __init__(self) -> None:
            super().__init__()
            Model.configure_model(self)

    rule = SeedEverything(7)
    fit(rule, model=Early())
    assert "made before the Trainer" in rule.findings[1].message
    L.seed_everything(1, verbose=False)
    fit(rule, model=Early())
    assert len(rule.findings) == 1


def ranks(count: int = 2, **more: Any) -> list[Seeded]:
    return [Seeded(seed=7, **{"mode": "fixed", **more})] * count


@pytest.mark.parametrize(
    ("seen", "severity", "words"),
    [
        (ranks(), Severity.INFO, "with 7; each of 2 ranks goes on"),
        (ranks(1), Severity.INFO, "Seeded Python, NumPy and torch with 7."),
        (ranks(unseeded_start=True), Severity.INFO, "made before the Trainer"),
        (ranks(own_workers=1), Severity.INFO, "1 loaders have a generator and a worker_init_fn of their own"),
        (ranks(changed="torch 2.14 to 2.15"), Severity.INFO, "versions have changed: torch 2.14 to 2.15."),
        (ranks(1, mode="workers", has_workers=True), Severity.OK, "One process"),
        (ranks(mode="workers"), Severity.OK, "No training loader has worker processes"),
        (ranks(mode="workers", has_workers=True), Severity.INFO, "Seeded the workers of 2 ranks apart; nothing else"),
        (ranks(mode="workers", has_workers=True, workers_before=True), Severity.OK, "kept apart already"),
        (ranks(mode="workers", main_process_reads=True), Severity.INFO, "All 2 ranks draw the same random numbers"),
    ],
)
def test_judgement(seen: Any, severity: Severity, words: str) -> None:
    findings = judge(seen)
    assert words in findings[-1].message
    assert findings[-1].severity is severity


def test_different_weights_are_an_error() -> None:
    assert judge_weights(["00", "00"]) == []
    assert judge_weights([None, None]) == []
    (finding,) = judge_weights(["00", "01"])
    assert finding.severity is Severity.ERROR


def test_streams_are_far_apart() -> None:
    numbers = [
        number
        for seed in (0, 1)
        for purpose in ("loading", "start", "epoch", "workers", "order")
        for epoch in range(3)
        for step in range(3)
        for rank in range(3)
        for number in derive(seed, purpose, epoch, step, rank)
    ]
    assert len(set(numbers)) == len(numbers) == 810
    bits = [bin(a ^ b).count("1") for a, b in pairwise(numbers)]
    assert 55 < np.mean(bits) < 73, "neighbours differ in half of the 128 bits"
