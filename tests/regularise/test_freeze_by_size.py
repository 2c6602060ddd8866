"""freeze-by-size: what is trained by the number of examples, and that the rest keeps every bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch
import pytest
import pytorch_lightning
import timm
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import BackboneFinetuning
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lightning_rules import FreezeBySize
from lightning_rules.regularise.freeze_by_size import stages_of, to_freeze

GENERATOR = torch.Generator().manual_seed(0)
DATA = TensorDataset(torch.randn(24, 3, 32, 32, generator=GENERATOR) + 1, torch.arange(24) % 3)


def pretrained(name: str = "test_resnet") -> nn.Module:
    """A timm network whose norms and biases have moved, as after training."""
    options = {"img_size": 32} if "vit" in name else {}
    net = timm.create_model(name, num_classes=3, **options)
    for parameter in net.parameters():
        if parameter.dim() == 1:
            nn.init.normal_(parameter, mean=0.5, std=0.1)
    return net


def fit(backbone: nn.Module, rules: list[Any], L: Any = lightning.pytorch, data: Any = DATA, **options: Any) -> Any:
    ckpt_path = options.pop("ckpt_path", None)

    class Model(L.LightningModule):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.backbone = backbone
            self.scale = nn.Parameter(torch.ones(()))
            self.at_start: dict[str, Any] = {}

        def on_train_start(self) -> None:
            self.at_start = {name: value.clone() for name, value in self.backbone.state_dict().items()}

        def on_train_epoch_start(self) -> None:
            self.train()  # as careless code does

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self.scale * self.backbone(batch[0]), batch[1])

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.backbone(batch[0])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], 0.05, momentum=0.9)

    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = L.Trainer(accelerator="cpu", callbacks=rules, **{**quiet, "max_epochs": 1, **options})
    model = Model()
    loader = DataLoader(data, 8)
    trainer.fit(model, loader, DataLoader(DATA, 8), ckpt_path=ckpt_path)
    return model, trainer


def moved(model: Any) -> set[str]:
    """The parts of the backbone in which a parameter or a statistic changed."""
    now = model.backbone.state_dict()
    return {name.partition(".")[0] for name, value in model.at_start.items() if not torch.equal(value, now[name])}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("L", [lightning.pytorch, pytorch_lightning], ids=lambda L: L.__name__)
@pytest.mark.parametrize(
    ("thresholds", "trained", "message"),
    [
        ({"small": 24}, {"fc"}, "Trains the head only: 24 training examples are 24 or fewer."),
        (
            {"small": 23, "large": 25},
            {"layer4", "fc"},
            "Trains the head and the last 1 of 5 stages (timm's stages): 24 training examples are more than 23 and "
            "fewer than 25.",
        ),
        (
            {"small": 5, "large": 24},
            {"conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "fc"},
            "Trains all layers: 24 training examples are 24 or more.",
        ),
    ],
    ids=["small", "medium", "large"],
)
def test_what_is_trained(L: Any, thresholds: dict[str, int], trained: set[str], message: str) -> None:
    """Frozen parts keep weights and batch-norm statistics to the bit, though the module calls train()."""
    rule = FreezeBySize(**thresholds)
    model, _ = fit(pretrained(), [rule], L)
    assert moved(model) == trained
    assert [finding.message for finding in rule.findings] == [message]


@pytest.mark.filterwarnings("ignore")
def test_lightnings_own_still_trains_batch_norm() -> None:
    """What this rule is for (Lightning 2.6.6); if this fails, Lightning has mended it, and the docstring can go."""

    model, _ = fit(pretrained(), [BackboneFinetuning(train_bn=False)])
    now = model.backbone.state_dict()
    changed = {name for name, value in model.at_start.items() if not torch.equal(value, now[name])}
    assert {"bn1.weight", "bn1.bias", "bn1.running_mean"} <= changed
    assert "layer1.0.conv1.weight" not in changed


@pytest.mark.parametrize(
    ("name", "head", "stages"),
    [("test_resnet", "fc", 5), ("test_vit", "head", 7), ("test_efficientnet", "classifier", 6)],
)
def test_timms_stages(name: str, head: str, stages: int) -> None:
    net = nn.ModuleDict({"backbone": pretrained(name), "neck": nn.Linear(3, 3)})
    found, source = stages_of(net)
    assert source == "timm's stages"
    assert len(found) == stages
    names = [key for stage in found for key in stage]
    assert len(names) == len(set(names))
    rest = {key for key, _ in net.named_parameters()} - set(names)
    assert {key.split(".")[1] if key.startswith("backbone") else key.split(".")[0] for key in rest} == {head, "neck"}


def test_decision_by_numbers() -> None:
    stages = [["a"], ["b", "c"], ["d"], ["e"], ["f"], ["g"]]
    assert to_freeze(100, stages, 100, 200) == ["a", "b", "c", "d", "e", "f", "g"]
    assert to_freeze(101, stages, 100, 200) == ["a", "b", "c", "d", "e"]
    assert to_freeze(200, stages, 100, 200) == []
    assert to_freeze(5, stages, 100, 0) == []


@pytest.mark.filterwarnings("ignore")
def test_other_networks_are_taken_by_their_children() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False)
            self.body = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4, affine=False))
            self.head = nn.Linear(4, 3)

        def forward(self, images: Tensor) -> Tensor:
            return self.head(self.body(self.norm(self.conv(images))).mean((2, 3)))

    net = Plain()
    nn.init.normal_(net.conv.weight)
    rule = FreezeBySize()
    model, _ = fit(nn.ModuleList([net])[0], [rule])
    # `scale` stands beside the backbone and is no module; the backbone is the only child
    assert moved(model) == {"norm", "head"}, "a norm without parameters beside trained layers goes on"
    assert "Trains the head only" in rule.findings[0].message


@pytest.mark.filterwarnings("ignore")
def test_resumed_as_it_was_whatever_the_data_is_now(tmp_path: Path) -> None:
    _, trainer = fit(pretrained(), [FreezeBySize(small=24)])
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    more = TensorDataset(*(torch.cat([part, part]) for part in DATA.tensors))
    fresh = timm.create_model("test_resnet", num_classes=3)
    rule = FreezeBySize(small=24)
    model, trainer = fit(fresh, [rule], data=more, ckpt_path=tmp_path / "a.ckpt", max_epochs=2)
    assert trainer.global_step == 3 + 6
    assert moved(model) == {"fc"}
    assert rule.findings[0].message == "Trains the head only: 24 training examples are 24 or fewer."


class Stream(IterableDataset):
    def __iter__(self) -> Any:
        return iter(DATA)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("make", "data", "reason"),
    [
        (lambda: timm.create_model("test_resnet", num_classes=3), DATA, "the network is not pretrained"),
        (lambda: timm.create_model("test_vit", num_classes=3, img_size=32), DATA, "the network is not pretrained"),
        (pretrained, Stream(), "cannot be counted (TypeError); tell the number in `examples`."),
    ],
)
def test_left_alone(make: Any, data: Any, reason: str) -> None:
    rule = FreezeBySize()
    model, _ = fit(make(), [rule], data=data)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert reason in rule.findings[0].message


@pytest.mark.filterwarnings("ignore")
def test_a_stream_whose_length_is_told() -> None:
    model, _ = fit(pretrained(), [FreezeBySize(examples=24)], data=Stream())
    assert moved(model) == {"fc"}


@pytest.mark.parametrize("name", ["small", "large", "examples"])
def test_wrong_arguments(name: str) -> None:
    with pytest.raises(ValueError, match=f"Expected `{name}` to be a number of examples, at least 0, but got -1."):
        FreezeBySize(**{name: -1})
