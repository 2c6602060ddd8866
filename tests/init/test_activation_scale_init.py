"""activation-scale-init: unit variance on the batch that training sees first, orthonormal rows, nothing else moved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch
import pytest
import pytorch_lightning
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_rules import ActivationScaleInit, LastLayerBiasInit, Severity

LABELS = torch.arange(64).remainder(8).clamp(max=2)  # 1/8, 1/8, 3/4
IMAGES = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(3)) * 2 + 1
SET = (nn.Linear, nn.Conv2d)


class Net(nn.Module):
    """Convolutions with a branch and groups, then a deep plain multilayer perceptron."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.branch = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3, padding=1, groups=3, bias=False)
        self.deep = nn.Sequential(*[part for _ in range(8) for part in (nn.Linear(36, 36), nn.ReLU())])
        self.pool, self.head = nn.AdaptiveAvgPool2d((2, 3)), nn.Linear(36, 3)
        self.unused = nn.Linear(4, 4)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.stem(images).relu()
        hidden = hidden + self.branch(hidden).tanh()
        return self.head(self.deep(self.pool(hidden).flatten(1)))


class Watch(lightning.pytorch.Callback):
    """The variances of all layers' outputs in the first step, and the weights before it."""

    def __init__(self) -> None:
        self.variances: dict[str, float] = {}
        self.weights: dict[str, Tensor] = {}

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.weights = {name: value.clone() for name, value in pl_module.net.state_dict().items()}

        def look(name: str) -> Any:
            return lambda layer, args, out: self.variances.setdefault(name, float(out.var(correction=0))) and None

        self.handles = [
            layer.register_forward_hook(look(name))
            for name, layer in pl_module.net.named_modules()
            if isinstance(layer, SET)
        ]

    def on_train_batch_end(self, *args: Any) -> None:
        for handle in self.handles:
            handle.remove()


def fit(net: nn.Module, rules: list[Any], L: Any = lightning.pytorch, **options: Any) -> tuple[Watch, Any, Any]:
    ckpt_path = options.pop("ckpt_path", None)

    class Model(L.LightningModule):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.01)

    watch = Watch()
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    callbacks = [*rules, watch]
    trainer = L.Trainer(accelerator="cpu", callbacks=callbacks, **{**quiet, "max_epochs": 1, **options})
    model = Model()
    trainer.fit(model, DataLoader(TensorDataset(IMAGES, LABELS), 32), ckpt_path=ckpt_path)
    return watch, model, trainer


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("L", [lightning.pytorch, pytorch_lightning], ids=lambda L: L.__name__)
def test_unit_variance_in_the_first_step(L: Any) -> None:
    torch.manual_seed(0)
    net = Net()
    unused = net.unused.weight.clone()
    rule = ActivationScaleInit()
    watch, _, _ = fit(net, [rule], L)
    assert len(watch.variances) == 11
    assert list(watch.variances.values()) == pytest.approx([1.0] * 11, abs=1e-4)
    for name, weight in watch.weights.items():
        if name.endswith("weight") and "unused" not in name:
            rows = weight.flatten(1)
            gram = rows @ rows.T if rows.shape[0] <= rows.shape[1] else rows.T @ rows
            torch.testing.assert_close(gram / gram[0, 0], torch.eye(len(gram)), atol=1e-4, rtol=0)
        elif name.endswith("bias") and "unused" not in name:
            assert not weight.any()
    assert torch.equal(net.unused.weight, unused), "a layer that the step does not use"
    (finding,) = rule.findings
    assert finding.severity is Severity.INFO
    assert finding.message.startswith("Set 11 layers to orthonormal weights and unit variance of their outputs on one")
    assert finding.evidence["layers_set"] == 11


@pytest.mark.filterwarnings("ignore")
def test_without_it_the_signal_dies() -> None:
    """The planted bug: torch's default in a deep plain network."""
    torch.manual_seed(0)
    watch, _, _ = fit(Net(), [])
    assert watch.variances["deep.14"] < 0.02


@pytest.mark.filterwarnings("ignore")
def test_a_bias_that_was_set_stays_and_the_trained_layers_too() -> None:
    net = Net()
    nn.init.normal_(net.stem.weight, std=0.5)  # as if loaded
    stem = net.stem.weight.clone(), net.stem.bias.clone()
    net.deep[0].requires_grad_(False)
    still = net.deep[0].weight.clone()
    rule = ActivationScaleInit()
    watch, _, _ = fit(net, [LastLayerBiasInit(), rule])
    assert torch.equal(watch.weights["stem.weight"], stem[0])
    assert torch.equal(watch.weights["stem.bias"], stem[1])
    assert torch.equal(watch.weights["deep.0.weight"], still)
    assert watch.weights["head.bias"].exp().tolist() == pytest.approx([0.125, 0.125, 0.75], abs=0.02)
    assert watch.variances["branch"] == pytest.approx(1.0, abs=1e-4)
    assert "Left 1 alone that are not as torch draws them" in rule.findings[0].message
    assert "such as `net.stem`" in rule.findings[0].message


@pytest.mark.filterwarnings("ignore")
def test_named_layers_are_set_whatever_they_hold() -> None:
    net = Net()
    nn.init.normal_(net.stem.weight, std=0.5)
    before = net.head.weight.clone()
    watch, _, _ = fit(net, [ActivationScaleInit(layers=["net.stem"])])
    assert watch.variances["stem"] == pytest.approx(1.0, abs=1e-4)
    assert torch.equal(watch.weights["head.weight"], before)


@pytest.mark.filterwarnings("ignore")
def test_the_users_seed_decides_and_the_global_stream_stays() -> None:
    starts, draws = [], []
    for rules in ([ActivationScaleInit()], [ActivationScaleInit()], []):
        torch.manual_seed(5)
        watch, model, _ = fit(Net(), rules)
        assert not any(layer._forward_pre_hooks for layer in model.modules())
        starts.append(watch.weights["head.weight"])
        draws.append(float(torch.rand(())))
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])
    assert draws[0] == draws[2]


@pytest.mark.filterwarnings("ignore")
def test_a_resumed_run_goes_on(tmp_path: Path) -> None:
    _, first, trainer = fit(Net(), [ActivationScaleInit()])
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    end = {name: value.clone() for name, value in first.net.state_dict().items()}
    rule = ActivationScaleInit(layers=["net.stem"])
    watch, _, _ = fit(Net(), [rule], ckpt_path=tmp_path / "a.ckpt", max_epochs=2)
    assert all(torch.equal(watch.weights[name], end[name]) for name in end)
    assert "the run is resumed" in rule.findings[-1].message


@pytest.mark.filterwarnings("ignore")
def test_a_constant_input_is_left_alone() -> None:
    class Still(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.zero, self.head = nn.Linear(5, 4), nn.Linear(192, 3)

        def forward(self, images: Tensor) -> Tensor:
            return self.head(images.flatten(1)) + self.zero(torch.zeros(len(images), 5))[:, :3]

    net = Still()
    before = net.zero.weight.clone()
    rule = ActivationScaleInit()
    watch, _, _ = fit(net, [rule])
    assert torch.equal(watch.weights["zero.weight"], before)
    assert rule.findings[0].message.endswith("Left 1 alone whose outputs do not vary.")


@pytest.mark.filterwarnings("ignore")
def test_a_wrong_name_of_a_layer() -> None:
    with pytest.raises(ValueError, match=r"There is no layer 'net.pool' of the kinds Linear, .* it has 'net.stem'"):
        fit(Net(), [ActivationScaleInit(layers=["net.pool"])])
