import json
import shutil
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image

from lightning_recipe.data import ImageFolderDataModule, normalisation
from lightning_recipe.models import ImageClassifier

COUNTS = {"cat": 10, "dog": 20}


def _ready(root: Path, **options: Any) -> ImageFolderDataModule:
    data = ImageFolderDataModule(str(root), **{"image_size": 8, "num_workers": 0, "batch_size": 4, **options})
    data.prepare_data()
    data.setup("fit")
    return data


def _names(data: ImageFolderDataModule, split: str) -> list[str]:
    return [f"{path.parent.name}/{path.name}" for path in data.datasets[split].paths]


def test_one_folder_is_split_by_class_and_reproducibly(make_folder, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_folder(COUNTS)
    data = _ready(root)
    assert data.class_names == ["cat", "dog"]
    assert data.num_classes == 2
    assert {s: np.bincount(data.labels(s)).tolist() for s in ("train", "val", "test")} == {
        "train": [7, 14],
        "val": [2, 4],
        "test": [1, 2],
    }
    names = [name for split in data.datasets for name in _names(data, split)]
    assert len(set(names)) == len(names) == 30
    # The file system may list files in any order.
    listed = Path.rglob
    monkeypatch.setattr(Path, "rglob", lambda self, pattern: reversed(list(listed(self, pattern))))
    again = _ready(root)
    assert all(_names(again, split) == _names(data, split) for split in data.datasets)
    assert _names(_ready(root, split_seed=1), "val") != _names(data, "val")


def test_train_val_test_folders_are_used_as_they_are(make_folder) -> None:
    for split, count in [("train", 5), ("val", 2), ("test", 1)]:
        make_folder({"cat": count, "dog": count}, under=f"images/{split}")
    data = _ready(Path("images"))
    assert [len(data.datasets[split]) for split in ("train", "val", "test")] == [10, 4, 2]
    assert _names(data, "test") == ["cat/00.png", "dog/00.png"]


def test_a_missing_split_is_held_out_from_training(make_folder) -> None:
    make_folder(COUNTS, under="images/train")
    make_folder({"dog": 3}, under="images/test")
    data = _ready(Path("images"))
    assert {split: len(data.datasets[split]) for split in data.datasets} == {"train": 24, "val": 6, "test": 3}
    assert data.labels("test").tolist() == [1, 1, 1]


def test_normalised_with_training_statistics_only(make_folder) -> None:
    data = _ready(make_folder(COUNTS))
    x = torch.stack([image for image, _ in data.datasets["train"]])
    assert x.dtype == torch.float32
    assert x.shape[1:] == (3, 8, 8)
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(x.std((0, 2, 3), unbiased=False), torch.ones(3), atol=1e-4, rtol=0)


def test_statistics_are_cached_by_the_list_of_files(make_folder, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_folder(COUNTS)
    _ready(root)
    (cached,) = (root / ".lightning-rules").iterdir()
    measured = json.loads(cached.read_text())
    cached.write_text(json.dumps({"mean": [0.5] * 3, "std": [0.25] * 3}))
    assert _ready(root).datasets["train"].transform.transforms[-1].mean == [0.5] * 3
    cached.write_text("half a fi")  # unreadable: measured again
    assert _ready(root).datasets["train"].transform.transforms[-1].mean == pytest.approx(measured["mean"])
    # Other training files, another size: another key.
    shutil.copy(root / "dog" / "00.png", root / "dog" / "99.png")
    _ready(root)
    _ready(root, image_size=10)
    assert len(list((root / ".lightning-rules").iterdir())) == 3


def test_a_read_only_folder_falls_back_to_the_users_cache(make_folder, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_folder(COUNTS)
    (root / ".lightning-rules").write_text("a file where the folder would be: it cannot be made, even by root")
    monkeypatch.setenv("XDG_CACHE_HOME", str(Path("cache").absolute()))
    data = _ready(root)
    assert len(list(Path("cache/lightning-rules").glob("normalisation-*.json"))) == 1
    monkeypatch.setattr(normalisation, "of_images", lambda *_, **__: pytest.fail("measured again"))
    assert _ready(root).datasets["val"][0][0].equal(data.datasets["val"][0][0])


def test_nowhere_to_cache_is_no_error(make_folder, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_folder(COUNTS)
    Path("file").touch()
    (root / ".lightning-rules").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(Path("file").absolute()))
    assert len(_ready(root).datasets["train"]) == 21


def test_pretrained_backbones_bring_their_own_statistics(make_folder) -> None:
    root = make_folder(COUNTS)
    normalise = _ready(root, normalise_for="resnet18").datasets["train"].transform.transforms[-1]
    assert normalise.mean == [0.485, 0.456, 0.406]
    assert normalise.std == [0.229, 0.224, 0.225]
    assert _ready(root, normalise_for="test_vit").datasets["val"].transform.transforms[-1].mean == [0.5] * 3
    grey = _ready(root, normalise_for="resnet18", in_chans=1)
    assert grey.datasets["train"].transform.transforms[-1].mean == pytest.approx([0.449])
    assert grey.datasets["train"][0][0].shape == (1, 8, 8)
    assert not (root / ".lightning-rules").exists()
    with pytest.raises(ValueError, match="normalise_for='resnet81' is no backbone"):
        _ready(root, normalise_for="resnet81")


def test_augmentation_is_off_unless_asked_for_and_never_on_validation(make_folder) -> None:
    root = make_folder(COUNTS)
    for augment in (False, True):
        data = _ready(root, augment=augment)
        views = {split: [data.datasets[split][0][0] for _ in range(4)] for split in data.datasets}
        same = {split: all(view.equal(seen[0]) for view in seen) for split, seen in views.items()}
        assert same == {"train": not augment, "val": True, "test": True}


def test_workers_are_seeded_and_persistent(make_folder) -> None:
    def first_batch(seed: int) -> torch.Tensor:
        L.seed_everything(seed, workers=True)
        data = _ready(root, augment=True, num_workers=1, batch_size=8)
        loader = data.train_dataloader()
        assert loader.persistent_workers
        assert loader.pin_memory == torch.cuda.is_available()
        image: torch.Tensor = next(iter(loader))[0]
        return image

    root = make_folder(COUNTS)
    _ready(root)  # measure the statistics beforehand
    assert first_batch(1).equal(first_batch(1))
    assert not first_batch(1).equal(first_batch(2))
    assert not _ready(root, num_workers=0).val_dataloader().persistent_workers


def test_a_missing_or_empty_folder(make_folder, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"There is no image folder nowhere: give a folder"):
        _ready(Path("nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"The image folder empty has no sub-folders: put"):
        _ready(Path("empty"))
    root = make_folder(COUNTS)
    (root / "bird").mkdir()
    (root / "bird" / "notes.txt").touch()
    with pytest.raises(FileNotFoundError, match=r"image folder .*bird has no images: put files of these types"):
        _ready(root)


def test_a_class_with_one_image(make_folder) -> None:
    with pytest.raises(ValueError, match=r"Class 'bird' has too few examples \(1\) to be split into train, val, test"):
        _ready(make_folder({**COUNTS, "bird": 1}))


def test_a_class_that_training_does_not_have(make_folder) -> None:
    make_folder(COUNTS, under="images/train")
    make_folder({"bird": 3}, under="images/val")
    with pytest.raises(ValueError, match=r"val has a class 'bird' that training does not have \(cat, dog\)"):
        _ready(Path("images"))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_corrupt_image_is_named(num_workers: int, make_folder) -> None:
    root = make_folder(COUNTS)
    data = _ready(root, num_workers=num_workers)
    for content in (b"no image", (root / "cat/00.png").read_bytes()[:200]):
        broken = data.datasets["val"].paths[1]
        broken.write_bytes(content)
        with pytest.raises(ValueError, match=rf"{broken.parent.name}/{broken.name} cannot be read as an image"):
            list(data.val_dataloader())
    data.datasets["train"].paths[3].write_bytes(b"")
    with pytest.raises(ValueError, match=r"cannot be read as an image .*: repair the file or remove it"):
        _ready(root, num_workers=num_workers)


def test_num_classes_is_checked_against_the_folder(make_folder) -> None:
    data = ImageFolderDataModule(str(make_folder(COUNTS)), image_size=8, num_workers=0)
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, max_epochs=1)
    with pytest.raises(ValueError, match="num_classes=3, but ImageFolderDataModule has 2 classes"):
        trainer.fit(ImageClassifier("test_resnet", 3), datamodule=data)


def test_hidden_files_and_other_modes_are_no_trouble(make_folder) -> None:
    root = make_folder(COUNTS)
    (root / "cat" / "._00.png").write_bytes(b"what a file manager leaves behind")
    (root / ".ipynb_checkpoints").mkdir()
    Image.new("P", (9, 9)).save(root / "cat" / "palette.png")
    Image.new("RGBA", (9, 30)).save(root / "dog" / "alpha.png")
    data = _ready(root)
    assert data.class_names == ["cat", "dog"]
    assert sum(len(split) for split in data.datasets.values()) == 32
    assert {image.shape for split in data.datasets.values() for image, _ in split} == {(3, 8, 8)}
