from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_iris
from torch import nn

from lightning_recipe.data import TableDataModule
from lightning_recipe.models import TableClassifier


@pytest.fixture
def flowers() -> TableDataModule:
    """Fisher's irises, their species by name."""
    iris = load_iris()
    lines = [",".join([*map(str, x), iris.target_names[y]]) for x, y in zip(iris.data, iris.target, strict=True)]
    Path("iris.csv").write_text("\n".join(["a,b,c,d,species", *lines]))
    return TableDataModule("iris.csv", "species")


def test_rows_are_answered_one_by_one() -> None:
    module = TableClassifier(4, 3, hidden=(8, 5), dropout=0.5).eval()
    x = torch.randn(7, 4)
    logits = module(x)
    assert logits.shape == (7, 3)
    torch.testing.assert_close(logits[2:3], module(x[2:3]))
    sizes = [(layer.in_features, layer.out_features) for layer in module.modules() if isinstance(layer, nn.Linear)]
    assert sizes == [(4, 8), (8, 5), (5, 3)]
    assert [layer.p for layer in module.modules() if isinstance(layer, nn.Dropout)] == [0.5, 0.5]
    assert [*TableClassifier(4, 3, hidden=()).body] == []


def test_it_learns_and_comes_back_from_its_checkpoint(flowers: TableDataModule, make_trainer) -> None:
    trainer = make_trainer(max_epochs=25)
    module = TableClassifier(4, 3, hidden=(16,), lr=2e-2, scheduler="cosine")
    trainer.fit(module, datamodule=flowers)
    assert {"train/loss", "train/accuracy", "val/loss", "val/accuracy"} <= trainer.callback_metrics.keys()
    (tested,) = trainer.test(module, datamodule=flowers, verbose=False)
    assert tested["test/accuracy"] > 0.9
    outputs = trainer.predict(module, datamodule=flowers)
    probabilities = torch.cat([output["probabilities"] for output in outputs])
    torch.testing.assert_close(probabilities.sum(1), torch.ones(30))
    right = probabilities.argmax(1) == torch.cat([output["label"] for output in outputs])
    assert right.float().mean() == pytest.approx(tested["test/accuracy"])
    trainer.save_checkpoint("a.ckpt")
    again = TableClassifier.load_from_checkpoint("a.ckpt", weights_only=True)
    x = torch.randn(3, 4)
    assert torch.equal(again.eval()(x), module.eval()(x))
    with pytest.raises((ValueError, RuntimeError), match="body"):
        trainer.test(TableClassifier(4, 3, hidden=(8,)), datamodule=flowers, ckpt_path="a.ckpt", weights_only=True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"num_features": 0}, r"num_features=0 and hidden=\[64, 64\] were given, but each must be at least 1"),
        ({"hidden": (8, 0)}, r"hidden=\[8, 0\] were given"),
        ({"dropout": 1.0}, "dropout=1.0 was given, but it must be from 0 to below 1"),
        ({"num_classes": 1}, "num_classes=1 was given"),
        ({"optimizer": "adamm"}, "optimizer='adamm' is unknown to timm"),
        ({"scheduler": "cosin"}, "scheduler='cosin' is unknown"),
    ],
)
def test_wrong_arguments_are_said_at_once(arguments: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        TableClassifier(**{"num_features": 4, "num_classes": 3, **arguments})


def test_other_data_is_said_before_training(flowers: TableDataModule, make_trainer) -> None:
    for module, said in (
        (
            TableClassifier(5, 3),
            "The model has num_features=5, but TableDataModule has 4 features: set the model's num_f",
        ),
        (TableClassifier(4, 2), "The model has num_classes=2, but TableDataModule has 3 classes"),
    ):
        with pytest.raises(ValueError, match=said):
            make_trainer(max_epochs=1).fit(module, datamodule=flowers)
