"""mode-audit: the judgement on numbers, then runs whose modes go wrong under way, and their healthy twins."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import lightning.pytorch as L
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_rules import Finding, ModeAudit, Severity
from lightning_rules.watch.mode_findings import ModesSeen, WrongLayer, judge

WRONG = WrongLayer("net.1", "BatchNorm1d", 36, True)
DROPOUTS = (("a", "Dropout"), ("b", "Dropout"))
NOISY = ModesSeen(validations=2, validated=3, validated_in_training=DROPOUTS)


@pytest.mark.parametrize(
    ("seen", "rule", "words"),
    [
        (ModesSeen(9, 4, (WRONG,)), "training-in-evaluation-mode", "from batch 36 on, after they were trained"),
        (ModesSeen(9, 4, (WRONG,)), "training-in-evaluation-mode", "1 of 4 layers that matter (BatchNorm1d: `net.1`)"),
        (NOISY, "validating-in-training-mode", "2 of 3 layers that do another thing in training (`a`, `b`) ran in"),
        (NOISY, "validating-in-training-mode", "while validating: the metrics have dropout's noise."),
        (ModesSeen(validations=2, wasted=1), "gradients-in-validation", "in 1 of 2 validations"),
        (ModesSeen(changed=("n.running_mean",), tensors=6), "validation-changes-the-model", "batch norm's statistics"),
        (ModesSeen(changed=("n.weight",), tensors=6), "validation-changes-the-model", "the network's weights: 1 of 6"),
    ],
)
def test_judgement(seen: ModesSeen, rule: str, words: str) -> None:
    (finding,) = judge([ModesSeen(), seen])
    assert (finding.rule, finding.severity) == (rule, Severity.WARNING)
    assert words in finding.message
    assert finding.advice


def test_what_holds_is_told() -> None:
    found = judge([ModesSeen(9, 4, validations=2, validated=4, tensors=6)])
    assert [finding.severity for finding in found] == [Severity.OK, Severity.OK]


def test_a_dropout_is_not_called_a_norm() -> None:
    (finding,) = judge([ModesSeen(9, 4, (WrongLayer("net.1", "Dropout", 0, False),))])
    assert finding.message.endswith("from the first batch on: dropout is off.")


class Model(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 4))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self.net(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([one for one in self.parameters() if one.requires_grad], 0.05)


class PicturesAfterAnEpoch(Model):
    def on_train_epoch_end(self) -> None:
        if self.current_epoch == 0:
            self.eval()
            self.net(torch.zeros(2, 8))


class EvalInTheStep(Model):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.eval()
        return super().training_step(batch, batch_idx)


class LoadedInEvaluationMode(Model):
    def __init__(self) -> None:
        super().__init__()
        self.net.eval()


class TrainInValidation(Model):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.net.train()
        super().validation_step(batch, batch_idx)


class GradientsLeftOn(Model):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        torch.set_grad_enabled(True)
        super().validation_step(batch, batch_idx)


class StepInValidation(Model):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        for parameter in self.parameters():
            parameter.data -= 0.01


class OnePeek(Model):
    """It looks at its own network in evaluation mode in each step, and goes on in training mode."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.eval()
        peeked = self.net(batch[0]).detach().mean()
        self.train()
        return super().training_step(batch, batch_idx) + 0 * peeked


class FrozenNorms(Model):
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.net[1].eval()


class FrozenBackbone(Model):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = copy.deepcopy(self.net[:4]).requires_grad_(False).eval()
        self.net = self.net[4]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.backbone.eval()
        return F.cross_entropy(self.net(self.backbone(batch[0])), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self.net(self.backbone(batch[0])), batch[1]))


class Teacher(Model):
    """A copy in evaluation mode runs without gradients, though it is optimised elsewhere in the step."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.net.eval()
        with torch.no_grad():
            self.net(batch[0])
        self.net.train()
        return super().training_step(batch, batch_idx)


class Forces(Model):
    """A gradient is taken in validation, as force fields do."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        torch.set_grad_enabled(True)
        inputs = batch[0].clone().requires_grad_()
        (force,) = torch.autograd.grad(self.net(inputs).sum(), inputs)
        self.log("val_loss", force.norm())


class Transformer(Model):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, 0.1, batch_first=True)
        self.net = nn.Sequential(
            nn.Unflatten(1, (1, 8)), nn.TransformerEncoder(layer, 1, enable_nested_tensor=False), nn.Flatten(),
            nn.BatchNorm1d(8), nn.Linear(8, 4),
        )  # fmt: skip


class CompiledNet(Model):
    """Compiled code bears no hook: flags are read beside the step."""

    def __init__(self) -> None:
        super().__init__()
        self.net.compile(backend="eager")


class CompiledInEvaluationMode(CompiledNet):
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.eval()


def data(shuffle: bool = False) -> DataLoader:
    inputs = torch.randn(128, 8, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(inputs, torch.arange(128) % 4), 8, shuffle=shuffle)


def fit(module: L.LightningModule, callbacks: list[Any], epochs: int = 3, path: Any = None, **options: Any) -> Any:
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    saves = any(isinstance(one, ModelCheckpoint) for one in callbacks)
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=epochs, callbacks=callbacks, enable_checkpointing=saves, **quiet, **options
    )
    trainer.fit(module, data(shuffle=True), data(), ckpt_path=path)
    return trainer


def findings(make: Callable[[], L.LightningModule], *others: Any, **options: Any) -> list[Finding]:
    torch.manual_seed(0)
    module, rule = make(), ModeAudit()
    fit(module, [rule, *others], **options)
    assert not any(part._forward_pre_hooks or part._forward_hooks for part in module.modules())
    return rule.findings


def alarms(found: list[Finding]) -> set[str]:
    return {finding.rule for finding in found if finding.severity >= Severity.WARNING}


PLANTED = {
    PicturesAfterAnEpoch: {"training-in-evaluation-mode"},
    EvalInTheStep: {"training-in-evaluation-mode"},
    LoadedInEvaluationMode: {"training-in-evaluation-mode"},
    CompiledInEvaluationMode: {"training-in-evaluation-mode"},
    TrainInValidation: {"validating-in-training-mode", "validation-changes-the-model"},
    StepInValidation: {"validation-changes-the-model"},
    GradientsLeftOn: {"gradients-in-validation"},
}
HEALTHY = (Model, OnePeek, FrozenNorms, FrozenBackbone, Teacher, Forces, Transformer, CompiledNet)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", PLANTED, ids=lambda make: make.__name__)
def test_fires_on_a_planted_bug(make: Any) -> None:
    found = findings(make, inference_mode=False)
    assert alarms(found) == PLANTED[make]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", HEALTHY, ids=lambda make: make.__name__)
def test_silent_on_healthy_runs(make: Any) -> None:
    found = findings(make, inference_mode=False)
    assert alarms(found) == set()
    assert not [finding for finding in found if "failed with" in finding.message]
    assert [finding.rule for finding in found if finding.severity is Severity.OK]


@pytest.mark.filterwarnings("ignore")
def test_averaged_weights_may_take_the_place_of_the_others() -> None:
    assert alarms(findings(Model, EMAWeightAveraging(decay=0.9))) == set()


@pytest.mark.filterwarnings("ignore")
def test_a_turn_is_told_with_the_batch_it_began_in() -> None:
    (finding,) = [one for one in findings(PicturesAfterAnEpoch) if one.severity is Severity.WARNING]
    assert "2 of 2 layers that matter (BatchNorm1d, Dropout: `net.1`, `net.3`)" in finding.message
    assert "from batch 18 on, after they were trained in training mode" in finding.message
    assert finding.step == 32, "the first look after three samples"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", [Model, Transformer], ids=lambda make: make.__name__)
def test_leaves_no_trace(make: Any) -> None:
    ends = []
    for rules in ([], [ModeAudit()]):
        torch.manual_seed(0)
        module = make()
        trainer = fit(module, rules, 2)
        ends.append((module.state_dict(), trainer.callback_metrics, torch.get_rng_state()))
    (weights, metrics, state), (weights_, metrics_, state_) = ends
    assert all(torch.equal(value, weights_[name]) for name, value in weights.items())
    assert all(torch.equal(value, metrics_[name]) for name, value in metrics.items())
    assert torch.equal(state, state_)


@pytest.mark.filterwarnings("ignore")
def test_a_resumed_run_remembers_how_it_began(tmp_path: Any) -> None:
    torch.manual_seed(0)
    fit(Model(), [ModeAudit(), ModelCheckpoint(tmp_path, "first")], 1)
    torch.manual_seed(0)
    rule = ModeAudit()
    fit(EvalInTheStep(), [rule], 3, tmp_path / "first.ckpt", inference_mode=False)
    (finding,) = [one for one in rule.findings if one.severity is Severity.WARNING]
    assert "after they were trained in training mode" in finding.message


@pytest.mark.filterwarnings("ignore")
def test_a_module_can_be_copied_while_hooks_stand_on_it() -> None:
    class Copies(Model):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            pickle.loads(pickle.dumps(self.net))
            copy.deepcopy(self.net)
            return super().training_step(batch, batch_idx)

    assert alarms(findings(Copies)) == set()


@pytest.mark.filterwarnings("ignore")
def test_hooks_are_gone_after_an_error() -> None:
    class Fails(Model):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            raise KeyError("here")

    module = Fails()
    with pytest.raises(KeyError):
        fit(module, [ModeAudit()])
    assert not any(part._forward_pre_hooks or part._forward_hooks for part in module.modules())
