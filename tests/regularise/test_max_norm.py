"""max-norm: as torch.renorm does it, after every step of every optimiser, and nothing else."""

from __future__ import annotations

import re
from typing import Any

import lightning.pytorch
import pytest
import pytorch_lightning
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_rules import MaxNorm, Severity
from lightning_rules.regularise.max_norm import judge_end, limit, weights_of

IMAGES = TensorDataset(torch.randn(24, 4, 6, 6, generator=torch.Generator().manual_seed(0)))


def net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1, groups=2),
        nn.BatchNorm2d(8),
        nn.ConvTranspose2d(8, 6, 2, groups=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(6 * 7 * 7, 5),
    )


def fit(model_net: nn.Module, rules: list[Any], L: Any = lightning.pytorch, manual: bool = False) -> Any:
    class Model(L.LightningModule):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.net, self.automatic_optimization = model_net, not manual

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if not manual:
                return self.loss(batch)
            for optimizer in self.optimizers():
                optimizer.zero_grad()
                self.manual_backward(self.loss(batch))
                optimizer.step()
            return None

        def loss(self, batch: Any) -> Tensor:
            return (self.net(batch[0]) - 3).square().mean()

        def configure_optimizers(self) -> Any:
            if not manual:
                return torch.optim.SGD(self.parameters(), 0.1, momentum=0.9)
            parts = [self.net[:4].parameters(), self.net[5].parameters()]
            return [torch.optim.SGD(part, 0.1) for part in parts]

    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=rules,
    )
    model = Model()
    trainer.fit(model, DataLoader(IMAGES, 8))
    return model, trainer


def renormed(conv: Any, max_norm: float) -> Tensor:
    """The reference: torch.renorm, which limits the slices along one dimension."""
    weight = conv.weight.detach()
    if not isinstance(conv, nn.ConvTranspose2d):
        return torch.renorm(weight, 2, 0, max_norm)
    groups = weight.chunk(conv.groups)
    return torch.cat([torch.renorm(group, 2, 1, max_norm) for group in groups])


def test_as_torch_renorm_does_it() -> None:
    layers = net()
    for layer in layers:
        if hasattr(layer, "weight"):
            nn.init.normal_(layer.weight, std=0.3)
    named = {str(i): layers[i] for i in (0, 2, 5)}
    before = {name: layer.weight.detach().clone() for name, layer in named.items()}
    expected = {name: renormed(layer, 1.2) for name, layer in named.items()}
    limit([weight for _, weight in weights_of(layers, named)], 1.2)
    for name, layer in named.items():
        torch.testing.assert_close(layer.weight.detach(), expected[name], rtol=1e-5, atol=1e-6)
        assert not torch.equal(expected[name], before[name])
    some = torch.linalg.vector_norm(before["0"], dim=(1, 2, 3)) <= 1.2
    assert 0 < some.sum() < 8
    assert torch.equal(layers[0].weight[some], before["0"][some]), "what is below the limit keeps every bit"


class Reference(lightning.pytorch.Callback):
    """What the rule promises, done by hand after each batch, which is one step here."""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        for index in (0, 2, 5):
            layer = pl_module.net[index]
            layer.weight.data = renormed(layer, 0.5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("L", [lightning.pytorch, pytorch_lightning], ids=lambda L: L.__name__)
def test_after_each_step_of_a_fit(L: Any) -> None:
    ends = []
    for callback in (MaxNorm(max_norm=0.5), Reference()):
        torch.manual_seed(1)
        model, _ = fit(net(), [callback], L)
        ends.append(model.net.state_dict())
    for name, value in ends[0].items():
        torch.testing.assert_close(value, ends[1][name], rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.filterwarnings("ignore")
def test_what_it_says_and_lets_go() -> None:
    rule = MaxNorm(max_norm=0.5)
    _, trainer = fit(net(), [rule])
    first, last = rule.findings
    assert first.message == (
        "Keeps the incoming weights of 19 units in 3 layers (`net.0`, `net.2`, `net.5`) to a norm of 0.5."
    )
    assert last.severity is Severity.OK
    assert last.evidence["units_at_limit"] > 0
    assert last.evidence["largest_norm"] == pytest.approx(0.5, rel=1e-5)
    assert not any(optimizer._optimizer_step_post_hooks for optimizer in trainer.optimizers)


@pytest.mark.filterwarnings("ignore")
def test_manual_optimisation_with_several_optimisers() -> None:
    """The second optimiser's loss sees the weights that the first one's step left, limited already."""
    norms: list[float] = []

    class Look(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            norms.append(float(layers[0].weight.detach().flatten(1).norm(dim=1).max()))
            return inputs

    layers = net()
    layers[3] = Look()
    fit(layers, [MaxNorm(max_norm=0.5)], manual=True)
    assert len(norms) == 12
    assert norms[0] > 0.5, "the start is left as it is"
    assert max(norms[1:]) <= 0.5 * (1 + 1e-6)


@pytest.mark.filterwarnings("ignore")
def test_frozen_and_shared_weights_and_norms_stay() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.out, self.still = nn.Embedding(9, 4), nn.Linear(4, 9), nn.Linear(4, 4)
            self.out.weight = self.embedding.weight
            self.still.requires_grad_(False)
            self.last = nn.Linear(9, 2)

        def forward(self, images: Tensor) -> Tensor:
            tokens = images[:, 0, 0].gt(0).long()
            return self.last(self.out(self.still(self.embedding(tokens))))

    model_net = Tied()
    still = model_net.still.weight.clone()
    rule = MaxNorm(max_norm=0.1)
    fit(model_net, [rule])
    assert torch.equal(model_net.still.weight, still)
    assert float(model_net.embedding.weight.norm(dim=1).max()) > 0.5
    assert float(model_net.last.weight.norm(dim=1).max()) <= 0.1 * (1 + 1e-6)
    assert "in 1 layers (`net.last`)" in rule.findings[0].message
    fit(model_net, [MaxNorm(max_norm=0.1, layers=["net.embedding"])])
    assert float(model_net.embedding.weight.norm(dim=1).max()) <= 0.1 * (1 + 1e-6)


def test_half_precision_keeps_the_limit() -> None:
    layer = nn.Linear(400, 3).to(torch.bfloat16)
    nn.init.normal_(layer.weight, std=50.0)
    limit([weight for _, weight in weights_of(layer, {"": layer})], 2.0)
    assert layer.weight.dtype is torch.bfloat16
    assert layer.weight.float().norm(dim=1).tolist() == pytest.approx([2.0] * 3, rel=0.01)


def test_judgement_of_the_end() -> None:
    assert judge_end((3, 10, 2.0), 2.0).message == "3 of 10 units are at the limit of 2."
    idle = judge_end((0, 10, 0.71), 2.0)
    assert (idle.severity, idle.advice) == (
        Severity.INFO,
        "Set `max_norm` below 0.71 if it is meant to regularise.",
    )


@pytest.mark.filterwarnings("ignore")
def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match=re.escape("Expected `max_norm` to be above 0, but got -1; 3 or 4 are usual.")):
        MaxNorm(max_norm=-1)
    with pytest.raises(ValueError, match=r"`layers` names 'net.1', which is no layer with a weight of two or more"):
        fit(net(), [MaxNorm(layers=["net.1"])])
