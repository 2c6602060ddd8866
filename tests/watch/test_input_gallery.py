"""What enters the network is what is shown: to the bit, de-normalised where the data says how, and never more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from lightning_rules import InputGallery, Severity
from lightning_rules.figures import as_picture, draw_example, new_figure, plain, small
from lightning_rules.watch.input_gallery import EXAMPLES, said_of
from lightning_rules.watch.normalisation import for_the_eye, normalisation_of

MEAN, STD = [0.2, 0.4, 0.6], [0.1, 0.2, 0.3]


class Normalize:
    mean, std = MEAN, STD


class Images(Dataset[Any]):
    classes = ("cat", "dog")

    def __init__(self) -> None:
        self.transform = [Normalize()]

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(index))
        return (image - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1), index % 2


class Classifier(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(192, 2)
        self.given: list[Tensor] = []

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return [batch[0] + 0.01 * torch.randn_like(batch[0]), batch[1]]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.given.append(batch[0].clone())
        batch[0].mul_(0.5)  # in place, after it was kept
        return F.cross_entropy(self.head(batch[0].flatten(1)), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.01)


def fit(rule: InputGallery, folder: Path, data: Any, module: Any, epochs: int = 1) -> None:
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[rule],
    )
    trainer.fit(module, DataLoader(data, 32, shuffle=True))


@pytest.mark.parametrize("epochs", [1, 12], ids=["shorter than a look", "longer"])
def test_shows_what_the_step_is_given(tmp_path: Path, epochs: int) -> None:
    rule, module = InputGallery(), Classifier()
    fit(rule, tmp_path, Images(), module, epochs)
    assert rule.gallery is not None
    assert rule.gallery.inputs is not None
    first = module.given[0]
    assert torch.equal(rule.gallery.inputs, first[:EXAMPLES])
    assert rule.gallery.targets is not None
    assert rule.normalisation == (MEAN, STD)
    assert rule.names == ["cat", "dog"]
    (finding,) = rule.findings
    assert finding.severity is Severity.INFO
    assert finding.message.startswith("A batch of 32 × 3 × 8 × 8 values of type float32 enters the network")
    assert finding.evidence["lowest"] == pytest.approx(float(first.min()))
    assert finding.evidence["highest"] == pytest.approx(float(first.max()))
    assert finding.evidence["mean"] == pytest.approx(float(first.mean()), abs=1e-5)
    assert finding.evidence["std"] == pytest.approx(float(first.std(correction=0)), rel=1e-4)
    assert (tmp_path / "rules" / "input_gallery.png").read_bytes().startswith(b"\x89PNG")


def test_values_that_are_not_finite_are_told(tmp_path: Path) -> None:
    class Table(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(5, 2)

    x = torch.rand(64, 5)
    x[:, 0] = torch.nan
    rule = InputGallery()
    fit(rule, tmp_path, TensorDataset(x, torch.zeros(64).long()), Table())
    assert rule.findings[0].message.endswith("; 20.00% of them are not finite.")


def test_the_way_back_is_taken_only_where_it_leads_to_images() -> None:
    images = torch.rand(4, 3, 8, 8)
    normalised = (images - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)
    back, said = for_the_eye(normalised, (MEAN, STD))
    torch.testing.assert_close(back, images)
    assert said == "de-normalised with mean 0.2, 0.4, 0.6 and std 0.1, 0.2, 0.3"
    stretched, said = for_the_eye(100 * normalised, (MEAN, STD))
    assert said.startswith("stretched from ")
    assert "lead to values from" in said
    assert (float(stretched.min()), float(stretched.max())) == (0.0, 1.0)
    assert for_the_eye(images, None)[1] == "as they are"
    assert for_the_eye((images * 255).to(torch.uint8), None)[1] == "bytes as they are"
    assert normalisation_of(Images()) == (MEAN, STD)
    assert normalisation_of(TensorDataset(images), None) is None


def test_targets_in_a_few_words() -> None:
    assert said_of(torch.tensor(1), ["cat", "dog"]) == "1: dog"
    assert said_of(torch.tensor(7), ["cat", "dog"]) == "7"
    assert said_of(torch.tensor([0.25]), []) == "0.25"
    assert said_of(torch.tensor([0.0, 1, 0, 1, 0]), ["a", "b", "c", "d", "e"]) == "b, d"
    assert said_of(torch.zeros(8, 8), []) == "target of 8 × 8"


@pytest.mark.parametrize(
    ("example", "images", "lines", "texts"),
    [
        (torch.rand(3, 8, 8), 1, 0, 0),
        (torch.rand(8, 8), 1, 0, 0),
        (torch.rand(50, 3), 0, 3, 0),
        (torch.rand(20, 7, 9), 1, 0, 0),
        (torch.rand(100), 0, 1, 0),
        (torch.arange(30), 0, 0, 1),
        (torch.tensor(0.5), 0, 1, 0),
    ],
    ids=["colour", "grey", "few channels", "volume", "long vector", "tokens", "number"],
)
def test_any_example_can_be_drawn(example: Tensor, images: int, lines: int, texts: int) -> None:
    axes = new_figure(2, 2, "$\\broken$ {title").add_subplot()
    draw_example(axes, example)
    assert (len(axes.images), len(axes.lines), len(axes.texts)) == (images, lines, texts)
    axes.figure.canvas.draw()


def test_pictures_are_small() -> None:
    assert small(torch.zeros(2, 3, 1000, 448)).shape == (2, 3, 200, 224)  # type: ignore[union-attr]
    assert small(torch.zeros(1, 4, 600, 600)[:, :, :, None].expand(1, 4, 600, 600, 600)) is None
    assert as_picture(torch.full((8, 8), 0.5), scaled=False) is not None
    assert plain("$x$") == r"\$x\$"
