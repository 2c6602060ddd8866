"""last-layer-bias-init: does exactly what it says, and leaves alone what it should."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset, WeightedRandomSampler

from lightning_rules import LastLayerBiasInit, Severity
from lightning_rules.init.last_layer_bias_init import HeadSeen, plan
from lightning_rules.priors import Tally

LABELS = torch.tensor([0] * 140 + [1] * 10 + [2] * 50)


def inputs(count: int = 200) -> Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(1))


class Model(L.LightningModule):
    def __init__(self, net: nn.Module, loss: Any) -> None:
        super().__init__()
        self.net, self.loss = net, loss
        self.at_start: dict[str, Any] = {}

    def on_train_start(self) -> None:  # comes after the callbacks
        self.at_start = {name: value.clone() for name, value in self.net.state_dict().items()}

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.loss(self.net, batch)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 1e-3)


def fit(net: nn.Module, loss: Any, data: Any, rule: Any = None, ckpt_path: Any = None, **options: Any) -> Any:
    rule = rule or LastLayerBiasInit()
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = L.Trainer(accelerator="cpu", callbacks=[rule], **{**quiet, "max_epochs": 1, **options})
    model = Model(net, loss)
    loader = data if isinstance(data, DataLoader) else DataLoader(TensorDataset(*data), 20, shuffle=True)
    trainer.fit(model, loader, ckpt_path=ckpt_path)
    return rule, model, trainer


def mlp(outputs: int, bias: bool = True) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, outputs, bias=bias))


def classify(net: Any, batch: Any) -> Tensor:
    return F.cross_entropy(net(batch[0]), batch[1])


@pytest.mark.filterwarnings("ignore")
def test_sets_the_log_prior_and_nothing_else() -> None:
    net = mlp(3)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    rule, model, _ = fit(net, classify, (inputs(), LABELS))
    np.testing.assert_allclose(model.at_start["2.bias"], np.log([0.7, 0.05, 0.25]), atol=0.01)
    for name in ("0.weight", "0.bias", "2.weight"):
        assert torch.equal(model.at_start[name], before[name])
    (finding,) = rule.findings
    assert finding.severity is Severity.INFO
    assert finding.message == (
        "Set the bias of `net.2` to the log prior of 3 classes (-3 to -0.357) for cross_entropy, "
        "from all 200 training labels."
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("outputs", "loss", "target", "expected"),
    [
        (1, lambda n, b: F.binary_cross_entropy_with_logits(n(b[0])[:, 0], b[1]), LABELS.eq(1).float(), [-2.94]),
        (
            3,
            lambda n, b: F.binary_cross_entropy_with_logits(n(b[0]), b[1]),
            F.one_hot(LABELS, 3).float(),
            [0.847, -2.94, -1.10],
        ),
        # integer labels that the step turns into one-hot rows itself
        (
            3,
            lambda n, b: F.binary_cross_entropy_with_logits(n(b[0]), F.one_hot(b[1], 3).float()),
            LABELS,
            [0.847, -2.94, -1.10],
        ),
        (1, lambda n, b: F.mse_loss(n(b[0]).squeeze(), b[1]), LABELS * 10.0, [5.5]),
        (2, lambda n, b: F.mse_loss(n(b[0]), b[1]), torch.stack([LABELS * 10.0, LABELS - 1.0], 1), [5.5, -0.45]),
        (1, lambda n, b: F.l1_loss(n(b[0])[:, 0], b[1]), LABELS * 10.0 + 3, [3.0]),
        (1, lambda n, b: F.smooth_l1_loss(n(b[0])[:, 0], b[1]), LABELS * 10.0 + 3, [3.0]),
    ],
    ids=["sigmoid", "multi-label", "one-hot", "mean", "two-means", "median", "smooth-l1"],
)
def test_each_loss_has_its_constant(outputs: int, loss: Any, target: Tensor, expected: list[float]) -> None:
    rule, model, _ = fit(mlp(outputs), loss, (inputs(), target))
    assert model.at_start["2.bias"].tolist() == pytest.approx(expected, abs=0.03), rule.findings
    assert "from all 200 training labels" in rule.findings[0].message


@pytest.mark.filterwarnings("ignore")
def test_class_weights_and_samplers_are_folded_in() -> None:
    weight = 1 / torch.bincount(LABELS).float()
    _, model, _ = fit(mlp(3), lambda n, b: F.cross_entropy(n(b[0]), b[1], weight=weight), (inputs(), LABELS))
    assert model.at_start["2.bias"].tolist() == pytest.approx([-1.0986] * 3, abs=0.01)
    sampler = WeightedRandomSampler(weight[LABELS], 200)
    loader = DataLoader(TensorDataset(inputs(), LABELS), 20, sampler=sampler)
    rule, model, _ = fit(mlp(3), classify, loader)
    assert model.at_start["2.bias"].tolist() == pytest.approx([-1.0986] * 3, abs=0.01)
    assert "weighed by the sampler" in rule.findings[0].message


class Counting(Dataset):
    """Images are dear: counts the reads."""

    def __init__(self, targets: list[int] | None) -> None:
        self.reads = 0
        if targets is not None:
            self.targets = targets

    def __len__(self) -> int:
        return 6000

    def __getitem__(self, index: int) -> Any:
        self.reads += 1
        return inputs(1)[0], 0 if index % 4 else 1


@pytest.mark.filterwarnings("ignore")
def test_labels_are_counted_without_reading_images() -> None:
    dataset = Counting([0 if index % 4 else 1 for index in range(6000)])
    rule, model, _ = fit(mlp(2), classify, DataLoader(dataset, 50), max_steps=1)
    assert dataset.reads < 200
    assert "from all 6000 training labels" in rule.findings[0].message
    assert model.at_start["2.bias"].tolist() == pytest.approx(np.log([0.75, 0.25]), abs=0.001)


@pytest.mark.filterwarnings("ignore")
def test_reading_images_is_bounded_and_said() -> None:
    dataset = Counting(None)
    rule, model, _ = fit(mlp(2), classify, DataLoader(dataset, 50), max_steps=1)
    assert dataset.reads < 4096 + 200
    assert "from the first 4050 training targets" in rule.findings[0].message
    assert model.at_start["2.bias"].tolist() == pytest.approx(np.log([0.75, 0.25]), abs=0.01)


@pytest.mark.filterwarnings("ignore")
def test_several_heads() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk, self.kind, self.size = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(8, 1)

    def loss(net: Any, batch: Any) -> Tensor:
        features = net.trunk(batch[0]).relu()
        kind = F.cross_entropy(net.kind(features), batch[1])
        return kind + 0.1 * F.mse_loss(net.size(features)[:, 0], batch[2])

    rule, model, _ = fit(Two(), loss, (inputs(), LABELS, LABELS * 10.0))
    assert model.at_start["size.bias"].tolist() == pytest.approx([5.5], abs=0.01)
    np.testing.assert_allclose(model.at_start["kind.bias"], np.log([0.7, 0.05, 0.25]), atol=0.1)
    assert [finding.message.split("`")[1] for finding in rule.findings] == ["net.kind", "net.size"]


def trained_head() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Linear(6, 3)
    target = inputs()[:, :3].argmax(1)
    optimizer = torch.optim.Adam(net.parameters(), 0.1)
    for _ in range(100):
        optimizer.zero_grad()
        F.cross_entropy(net(inputs()), target).backward()
        optimizer.step()
    return net


LEFT_ALONE = {
    "trained": (trained_head, classify, inputs()[:, :3].argmax(1), "has learned already"),
    "no-bias": (lambda: mlp(3, bias=False), classify, LABELS, "it has no bias"),
    "two-losses": (
        lambda: mlp(3),
        lambda n, b: classify(n, b) + classify(n, (b[0].flip(0), b[1])),
        LABELS,
        "it feeds several losses",
    ),
    "squashed": (
        lambda: mlp(3),
        lambda n, b: F.cross_entropy(n(b[0]).softmax(1), b[1]),
        LABELS,
        "no single layer makes what cross_entropy is given",
    ),
    "anchors": (
        lambda: mlp(6),
        lambda n, b: F.cross_entropy(n(b[0]).view(-1, 3), b[1].repeat_interleave(2)),
        LABELS,
        "it has 6 biases for 3 classes",
    ),
    "own-loss": (lambda: mlp(3), lambda n, b: n(b[0]).square().mean(), LABELS, "none of torch's loss functions"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", LEFT_ALONE)
def test_left_alone(case: str) -> None:
    make, loss, target, reason = LEFT_ALONE[case]
    net = make()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    rule, model, _ = fit(net, loss, (inputs(), target))
    assert all(torch.equal(model.at_start[name], before[name]) for name in before)
    (finding,) = rule.findings
    assert finding.severity is Severity.INFO
    assert reason in finding.message


@pytest.mark.filterwarnings("ignore")
def test_a_frozen_bias_is_left_alone() -> None:
    net = mlp(3)
    net[2].bias.requires_grad_(False)
    before = net[2].bias.clone()
    rule, model, _ = fit(net, classify, (inputs(), LABELS))
    assert torch.equal(model.at_start["2.bias"], before)
    assert "its bias is frozen" in rule.findings[0].message


@pytest.mark.filterwarnings("ignore")
def test_a_resumed_run_goes_on_from_its_bias(tmp_path: Path) -> None:
    _, first, trainer = fit(mlp(3), classify, (inputs(), LABELS))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    rule, model, _ = fit(mlp(3), classify, (inputs(), LABELS), ckpt_path=tmp_path / "a.ckpt", max_epochs=2)
    assert torch.equal(model.at_start["2.bias"], first.net[2].bias)
    messages = [finding.message for finding in rule.findings]
    assert messages[0].startswith("Set the bias"), "what was found before the interruption is still told"
    assert "the run is resumed" in messages[1]


@pytest.mark.filterwarnings("ignore")
def test_a_second_fit_of_the_same_model_is_left_alone() -> None:
    """The same module object, trained on in a new Trainer, knows something already."""
    target = inputs()[:, :3].argmax(1)
    rule, model, _ = fit(trained_head(), classify, (inputs(), target))
    bias = model.net.bias.clone()
    rule, again, _ = fit(model.net, classify, (inputs(), target), rule)
    assert torch.equal(again.at_start["bias"], bias)
    assert len(rule.findings) == 1, "findings are those of this fit"


def ranks(gain: float, learned: str = "") -> list[HeadSeen]:
    counts = Tally("softmax", np.array([30.0, 10.0]), 40, "all 40 training labels", complete=True)
    return [HeadSeen("cross_entropy", "fc", learned, counts, gain * 20, gain**2 * 20 + 0.1, 0.56 * 20, 20)] * 2


def test_the_plan_is_one_for_all_ranks() -> None:
    planned = plan(ranks(gain=-0.1))
    np.testing.assert_allclose(planned.bias, np.log([0.75, 0.25]))
    assert plan(ranks(gain=0.4)).bias is None
    assert plan(ranks(gain=-0.1, learned="its bias is frozen.")).bias is None
