import csv
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image

from lightning_recipe.data import ImageFolderDataModule
from lightning_recipe.models import ImageClassifier
from lightning_recipe.predictions import PredictionsCSV


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_table_holds_what_the_module_predicts(make_trainer, blobs, tmp_path: Path) -> None:
    module, data = ImageClassifier("test_resnet", 3, in_chans=1), blobs(count=11, batch_size=4)
    make_trainer(callbacks=[PredictionsCSV()]).predict(module, datamodule=data, return_predictions=False)
    rows = _rows(tmp_path / "predictions.csv")
    with torch.no_grad():
        probabilities = module.eval()(data.x).softmax(1)
    names = [f"p({name})" for name in data.class_names]
    assert list(rows[0]) == ["index", "predicted", "confidence", *names, "true"]
    assert [row["index"] for row in rows] == [str(i) for i in range(11)]
    assert [row["predicted"] for row in rows] == [data.class_names[i] for i in probabilities.argmax(1)]
    assert [row["true"] for row in rows] == [data.class_names[i] for i in data.y]
    written = torch.tensor([[float(row[name]) for name in names] for row in rows])
    torch.testing.assert_close(written, probabilities, atol=1e-5, rtol=0)
    assert [row["confidence"] for row in rows] == [max(row[name] for name in names) for row in rows]
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.csv"]


def test_without_a_datamodule_classes_are_numbers(make_trainer, blobs) -> None:
    loader = blobs(count=5).train_dataloader()
    trainer = make_trainer(callbacks=[PredictionsCSV("out/table.csv")])
    for _ in range(2):  # a second call starts anew
        trainer.predict(ImageClassifier("test_resnet", 3, in_chans=1), [loader, loader], return_predictions=False)
    rows = _rows(Path("out/table.csv"))
    assert [(row["dataloader"], row["index"]) for row in rows] == [(d, i) for d in "01" for i in "01234"]
    assert {"p(0)", "p(1)", "p(2)"} < rows[0].keys()


def test_files_are_named_and_unknown_classes_left_open(make_trainer) -> None:
    generator = np.random.default_rng(0)
    for path in [f"images/{name}/{i}.png" for name in ("cat", "dog") for i in range(4)] + ["new/b.png", "new/a.png"]:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)

    def predict(**options: Any) -> list[dict[str, str]]:
        data = ImageFolderDataModule("images", image_size=32, num_workers=0, **options)
        trainer = make_trainer(callbacks=[PredictionsCSV("table.csv")])
        trainer.predict(ImageClassifier("test_resnet", 2), datamodule=data, return_predictions=False)
        return _rows(Path("table.csv"))

    rows = predict(predict_folder="new")
    assert [row["file"] for row in rows] == ["new/a.png", "new/b.png"]
    assert "true" not in rows[0]
    assert {row["predicted"] for row in rows} <= {"cat", "dog"}
    rows = predict()
    assert [row["true"] for row in rows] == [Path(row["file"]).parent.name for row in rows] == ["cat", "dog"]


def test_predictions_of_another_kind_are_refused(make_trainer, blobs) -> None:
    module = ImageClassifier("test_resnet", 3, in_chans=1)
    module.predict_step = lambda batch, batch_idx: module(batch[0])
    with pytest.raises(ValueError, match="predict_step returned Tensor, but PredictionsCSV expects a dict"):
        make_trainer(callbacks=[PredictionsCSV()]).predict(module, datamodule=blobs())


def test_it_is_a_callback_of_lightning() -> None:
    assert isinstance(PredictionsCSV(), L.Callback)
