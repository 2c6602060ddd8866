"""distillation: the same weights, to rounding, as a training step that has the teacher's say written into it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import ModelCheckpoint
from timm.task.distillation import DistillationTeacher, LogitDistillationTask
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from lightning_rules import Cascade, Distillation, EnsembleModule, ExactResume, Rule, Severity, save_ensemble
from lightning_rules.combine.soft_loss import distillation_loss
from lightning_rules.combine.stored_module import load_module
from lightning_rules.testing.demo import DemoClassifier

pytestmark = pytest.mark.filterwarnings("ignore")
TEMPERATURE, MIXING = 3.0, 0.7


def teacher(seed: int = 5) -> DemoClassifier:
    torch.manual_seed(seed)
    module = DemoClassifier()
    for parameter in module.parameters():
        parameter.data.mul_(3)
    return module


def examples(count: int = 61) -> TensorDataset:
    features = torch.randn(count, 4, generator=torch.Generator().manual_seed(count))
    return TensorDataset(features, (features[:, 0] > 0).long() + (features[:, 0] > 0.7).long())


class ByHand(DemoClassifier):
    """The reference: asks the teacher itself."""

    def __init__(self, taught_by: nn.Module) -> None:
        super().__init__()
        self.asked = [taught_by.eval()]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        logits = self(batch[0])
        with torch.no_grad():
            soft = (self.asked[0](batch[0]) / TEMPERATURE).softmax(1)
        distance = -(soft * (logits / TEMPERATURE).log_softmax(1)).sum(1).mean() * TEMPERATURE**2
        return (1 - MIXING) * F.cross_entropy(logits, batch[1]) + MIXING * distance


class Endless:
    """Batches in no order, and nobody knows how many: Lightning then reads one ahead."""

    def __iter__(self) -> Any:
        return iter(torch.randperm(61, generator=torch.Generator().manual_seed(4)).split(7))


def trained(module: Any, fitted: Any, **options: Any) -> None:
    torch.manual_seed(3)
    options = options or {"batch_size": 7, "shuffle": True}
    fitted.fit(module, DataLoader(examples(), **options))


def same(first: nn.Module, second: nn.Module, tolerance: float) -> bool:
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    return all(torch.allclose(a, b, atol=tolerance) for a, b in pairs)


@pytest.mark.parametrize(
    ("targets", "loader", "options", "tolerance"),
    [
        ("consistent", {}, {}, 1e-6),
        ("cached", {}, {}, 2e-4),
        ("cached", {"batch_sampler": Endless()}, {}, 2e-4),
        (
            "cached",
            {"batch_size": 7, "shuffle": True, "drop_last": True, "num_workers": 2, "persistent_workers": True},
            {"accumulate_grad_batches": 3},
            2e-4,
        ),
        ("cached", {"batch_size": 7, "shuffle": True}, {"limit_train_batches": 5, "max_epochs": 3}, 2e-4),
    ],
)
def test_as_by_hand(quiet: Any, saved: Any, targets: Any, loader: Any, options: Any, tolerance: float) -> None:
    path, student = saved(teacher()), DemoClassifier()
    reference = ByHand(teacher())
    reference.load_state_dict(student.state_dict())
    rule = Distillation(path, TEMPERATURE, MIXING, targets)
    before = [parameter.clone() for parameter in student.parameters()]
    trained(student, quiet(rule, **options), **loader)
    trained(reference, quiet(**options), **loader)
    assert [finding.message for finding in rule.findings] == [
        f"Learns from {path} (temperature 3, mixing 0.7, {targets} targets)."
    ]
    assert not all(torch.equal(a, b) for a, b in zip(before, student.parameters(), strict=True))
    assert same(student, reference, tolerance)
    assert "training_step" not in vars(student)
    assert not student._forward_hooks


def test_a_batch_that_is_skipped_does_not_shift_the_others(quiet: Any, saved: Any) -> None:
    class Skips(L.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> int | None:
            seen.append(batch[0].clone())
            return None

    class Step(DemoClassifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            return None if batch_idx % 3 == 1 else loss

        def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
            return -1 if batch_idx == 5 else None  # ends the epoch, with a batch read ahead

    class StepByHand(ByHand):
        on_train_batch_start = Step.on_train_batch_start

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            return None if batch_idx % 3 == 1 else loss

    seen: list[Tensor] = []
    path, student, reference = saved(teacher()), Step(), StepByHand(teacher())
    reference.load_state_dict(student.state_dict())
    rule = Distillation(path, TEMPERATURE, MIXING)
    trained(student, quiet(rule, Skips(), max_epochs=3))
    trained(reference, quiet(max_epochs=3))
    assert len(seen) == 18
    assert same(student, reference, 2e-4)


def test_an_ensemble_teaches_and_ends_a_cascade(quiet: Any, saved: Any) -> None:
    members = [saved(teacher(seed), f"{seed}.ckpt") for seed in range(3)]
    save_ensemble(EnsembleModule(members, "multiclass"), "ensemble.ckpt")
    ensemble = load_module("ensemble.ckpt")
    reference, students = ByHand(ensemble), {targets: DemoClassifier() for targets in ("cached", "consistent")}
    for targets, student in students.items():
        student.load_state_dict(reference.state_dict(), strict=False)
        trained(student, quiet(Distillation("ensemble.ckpt", TEMPERATURE, MIXING, targets)))
    trained(reference, quiet())
    assert same(students["consistent"], reference, 1e-5)
    assert same(students["cached"], reference, 5e-4)
    cascade = Cascade([members[0], "ensemble.ckpt"], thresholds=[2.0])  # nothing stops before the ensemble
    x = examples()[:][0]
    quiet().validate(cascade, DataLoader(examples(), 7), verbose=False)
    torch.testing.assert_close(cascade(x), ensemble(x).log_softmax(1))


class Labels(L.LightningModule):
    """Two labels an example, or two values; the loss is fed by a layer, and there is no forward."""

    def __init__(self, kind: str, forward: bool = True) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.body, self.head, self.kind = nn.Linear(4, 8), nn.Linear(8, 2), kind
        self.losses: list[float] = []
        if forward:
            self.forward = lambda inputs: self.head(self.body(inputs).tanh())  # type: ignore[method-assign]

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if self.kind == "labels":
            return F.binary_cross_entropy_with_logits(outputs, (targets > 0).float())
        return F.mse_loss(outputs, targets)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.loss(self.head(self.body(batch[0]).tanh()), batch[1])
        return {"loss": loss, "extra": 1}

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        assert outputs["extra"] == 1
        self.losses.append(float(outputs["loss"]))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.0)


class Teacher(Labels):
    """As its student, with forward."""

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.body(inputs).tanh())  # type: ignore[no-any-return]

    def __init__(self, kind: str) -> None:
        super().__init__(kind, forward=False)


@pytest.mark.parametrize("kind", ["labels", "values"])
@pytest.mark.parametrize("targets", ["cached", "consistent"])
def test_labels_and_values_by_a_layer(quiet: Any, saved: Any, kind: str, targets: Any) -> None:
    torch.manual_seed(1)
    taught_by, student = Teacher(kind), Labels(kind, forward=False)
    x = torch.randn(8, 4)
    y = torch.randn(8, 2) if kind == "values" else torch.randn(8, 2).sign()
    rule = Distillation(saved(taught_by), TEMPERATURE, MIXING, targets)
    quiet(rule, max_epochs=1).fit(student, DataLoader(TensorDataset(x, y), 8))
    with torch.no_grad():
        ours, theirs = (each.head(each.body(x).tanh()) for each in (student, taught_by))
        if kind == "labels":
            yes = torch.distributions.Bernoulli(logits=theirs / TEMPERATURE)
            distance = torch.distributions.kl_divergence(yes, torch.distributions.Bernoulli(logits=ours / TEMPERATURE))
            distance = distance.mean() * TEMPERATURE**2
        else:
            distance = F.mse_loss(ours, theirs)
        expected = (1 - MIXING) * student.loss(ours, y) + MIXING * distance
    assert student.losses == pytest.approx([float(expected)], rel=1e-3)
    assert len(rule.findings) == 1


class Wrapped(nn.Module):
    """What timm's task asks of a model."""

    pretrained_cfg = {"mean": (0.5,) * 3, "std": (0.5,) * 3}  # noqa: RUF012
    num_classes, in_chans = 5, 3

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(12, 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images.flatten(1))  # type: ignore[no-any-return]


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_loss_is_timms(temperature: float) -> None:
    student, taught_by = Wrapped(), Wrapped()
    images, labels = torch.randn(6, 3, 2, 2), torch.arange(6) % 5
    weights = {"task_loss_weight": 0.3, "temperature": temperature, "verbose": False}
    task = LogitDistillationTask(student, DistillationTeacher(taught_by), nn.CrossEntropyLoss(), **weights)
    expected = task(images, labels)
    ours = distillation_loss(student(images), taught_by(images).log_softmax(1), "multiclass", temperature)
    torch.testing.assert_close(ours, expected["kd_loss"])
    torch.testing.assert_close(0.3 * F.cross_entropy(student(images), labels) + 0.7 * ours, expected["loss"])


class Noisy(Dataset[Any]):
    """Random augmentation in the data set."""

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> Any:
        return torch.randn(4) + index, index % 3


class Mixing(DemoClassifier):
    """Changes its inputs before forward."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return super().training_step((0.5 * (batch[0] + batch[0].flip(0)), batch[1]), batch_idx)


@pytest.mark.parametrize(
    ("module", "data", "said"),
    [
        (DemoClassifier, Noisy(), "Two readings of the same training examples differ (random augmentation)"),
        (Mixing, examples(24), "The training step changes its inputs before forward (mixing, augmentation)"),
    ],
)
def test_cached_targets_of_changing_inputs(quiet: Any, saved: Any, module: Any, data: Any, said: str) -> None:
    path = saved(teacher())
    rules = [Distillation(path, targets=targets) for targets in ("cached", "consistent")]
    for rule in rules:
        quiet(rule, max_epochs=1).fit(module(), DataLoader(data, 8))
    cached, consistent = rules
    assert cached.findings[-1].severity is Severity.WARNING
    assert cached.findings[-1].message == f"{said}, and the teacher's answers are kept for one reading."
    assert len(consistent.findings) == 1


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(examples(16))


class Manual(DemoClassifier):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        super().training_step(batch, batch_idx)


@pytest.mark.parametrize(
    ("module", "data", "options", "said"),
    [
        (DemoClassifier, examples(16), {"teacher": None}, "no `teacher` was named"),
        (DemoClassifier, Stream(), {}, 'an iterable data set does not number its examples; take targets="consistent".'),
        (Manual, examples(16), {}, "with manual optimisation"),
    ],
)
def test_does_not_apply(quiet: Any, saved: Any, module: Any, data: Any, options: Any, said: str) -> None:
    rule, student = Distillation(**{"teacher": saved(teacher()), **options}), module()
    quiet(rule, max_epochs=1).fit(student, DataLoader(data, 8))
    (finding,) = rule.findings
    assert finding.severity is Severity.INFO
    assert said in finding.message
    assert "training_step" not in vars(student)


def test_wrong_teachers_are_refused_before_training(quiet: Any, saved: Any, tmp_path: Path) -> None:
    class Seven(DemoClassifier):
        def __init__(self) -> None:
            super().__init__()
            self.net[-1] = nn.Linear(8, 7)

    def refused(student: Any, kind: type[Exception] = ValueError, **options: Any) -> str:
        with pytest.raises(kind) as raised:
            quiet(Distillation(**options)).fit(student, DataLoader(examples(), 8))
        assert "training_step" not in vars(student)
        return str(raised.value)

    path = saved(teacher())
    assert "There is no checkpoint nowhere.ckpt" in refused(DemoClassifier(), FileNotFoundError, teacher="nowhere.ckpt")
    broken = tmp_path / "broken.ckpt"
    broken.write_bytes(Path(path).read_bytes()[:500])
    assert "is damaged or no checkpoint" in refused(DemoClassifier(), teacher=str(broken))
    said = refused(Seven(), teacher=path, targets="consistent")
    assert "answers with [3] outputs an example and the student with [7]" in said
    assert not list(tmp_path.glob("*.soft-targets"))
    labels = saved(Teacher("labels"), "labels.ckpt")
    data = DataLoader(TensorDataset(torch.rand(8, 4), torch.rand(8, 2)), 8)
    with pytest.raises(ValueError, match="is for multilabel, but the student learns regression"):
        quiet(Distillation(labels)).fit(Teacher("values"), data)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"temperature": 0.0}, "Expected `temperature` to be above 0, but got 0.0; 1 to 20 are usual."),
        ({"mixing": 1.5}, "Expected `mixing` to be above 0 and at most 1, but got 1.5; 0.5 to 0.9 are usual."),
        ({"targets": "fresh"}, "Expected `targets` to be 'cached' or 'consistent', but got 'fresh'."),
    ],
)
def test_wrong_arguments(options: Any, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        Distillation(**options)


def test_resumed_in_the_middle_of_an_epoch(quiet: Any, saved: Any, tmp_path: Path) -> None:
    def fit(*callbacks: Any, **options: Any) -> Any:
        torch.manual_seed(7)
        student = DemoClassifier()
        fitted = quiet(Distillation(path), ExactResume(), *callbacks, enable_checkpointing=True)
        fitted.fit(student, DataLoader(examples(64), 8, shuffle=True), **options)
        return fitted, student

    path = saved(teacher())
    _, whole = fit(ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=5, save_top_k=-1))
    fitted, resumed = fit(ckpt_path=tmp_path / "step=5.ckpt", weights_only=True)
    assert fitted.global_step == 16
    assert same(resumed, whole, 0.0)
    assert all("cannot" not in f.message for rule in fitted.callbacks if isinstance(rule, Rule) for f in rule.findings)


def test_the_checkpoint_is_the_students_own(quiet: Any, saved: Any, tmp_path: Path) -> None:
    student = DemoClassifier()
    fitted = quiet(Distillation(saved(teacher())), max_epochs=1)
    fitted.fit(student, DataLoader(examples(), 8))
    fitted.save_checkpoint(tmp_path / "student.ckpt")
    again = DemoClassifier.load_from_checkpoint(tmp_path / "student.ckpt", weights_only=True)
    assert same(again, student, 0.0)
    checkpoint = torch.load(tmp_path / "student.ckpt", weights_only=True)
    assert checkpoint["state_dict"].keys() == DemoClassifier().state_dict().keys()
