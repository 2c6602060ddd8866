"""What a checkpoint says of its data, and what happens when it meets other data."""

from pathlib import Path

import lightning as L
import pytest
import torch

from lightning_recipe.data import DigitsDataModule, ImageFolderDataModule

QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}


class Flat(L.LightningModule):
    def __init__(self, inputs: int = 64, outputs: int = 10) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(inputs, outputs)

    def training_step(self, batch, batch_idx):
        return torch.nn.functional.cross_entropy(self.layer(batch[0].flatten(1)), batch[1])

    def test_step(self, batch, batch_idx):
        self.log("test/loss", self.training_step(batch, batch_idx))

    def predict_step(self, batch, batch_idx):
        return self.layer(batch[0].flatten(1))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def trainer(steps: int = 1) -> L.Trainer:
    return L.Trainer(**QUIET, max_steps=steps, limit_train_batches=2, limit_test_batches=1, limit_predict_batches=1)


def saved(data: L.LightningDataModule, model: Flat, path: str = "a.ckpt") -> str:
    fitted = trainer()
    fitted.fit(model, datamodule=data)
    fitted.save_checkpoint(path)
    return path


def images(root: Path, **options) -> ImageFolderDataModule:
    return ImageFolderDataModule(str(root), image_size=4, num_workers=0, batch_size=4, **options)


def test_a_checkpoint_says_what_it_expects_and_answers(make_folder) -> None:
    data = images(make_folder({"a": 8, "b": 8}))
    state = torch.load(saved(data, Flat(48, 2)), weights_only=True)["ImageFolderDataModule"]
    assert state["class_names"] == ["a", "b"]
    assert (state["image_size"], state["in_chans"], state["share"]) == (4, 3, None)
    assert tuple(state["normalisation"]["mean"]) == data.normalisation.mean
    assert len(state["normalisation"]["std"]) == 3
    digits = torch.load(saved(DigitsDataModule(), Flat()), weights_only=True)["DigitsDataModule"]
    assert digits["class_names"] == [str(digit) for digit in range(10)]
    assert digits["form"] == "images"


def test_the_same_data_goes_on_and_is_tested_and_predicted(make_folder) -> None:
    root = make_folder({"a": 8, "b": 8})
    path = saved(images(root), Flat(48, 2))
    others = make_folder({"c": 2, "d": 2}, under="others", seed=5)
    trainer(3).fit(Flat(48, 2), datamodule=images(root), ckpt_path=path, weights_only=True)
    trainer().test(Flat(48, 2), datamodule=images(root), ckpt_path=path, weights_only=True)
    predict = images(root, predict_folder=str(others))
    assert trainer().predict(Flat(48, 2), datamodule=predict, ckpt_path=path, weights_only=True)


def test_a_checkpoint_without_that_state_is_taken(make_folder) -> None:
    path = saved(DigitsDataModule(), Flat())
    checkpoint = torch.load(path, weights_only=True)
    for state in ({}, {"class_names": [str(digit) for digit in range(10)]}, None):
        checkpoint["DigitsDataModule"] = state
        if state is None:
            del checkpoint["DigitsDataModule"]
        torch.save(checkpoint, path)
        goes_on = trainer(3)
        goes_on.fit(Flat(), datamodule=DigitsDataModule(), ckpt_path=path, weights_only=True)
        assert goes_on.current_epoch == 3


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        ({"a": 8, "c": 8}, r"other classes \(a, b; 2 in all\), but the data lacks b and has c: give it data"),
        ({"a": 8, "b": 8, "c": 8}, r"\(a, b; 2 in all\), but the data has c: give"),
        ({"b": 9, "a": 8}, r"normalised with mean .* and std .*, but this data is normalised with mean"),
    ],
)
def test_other_data_is_refused(make_folder, classes: dict[str, int], said: str) -> None:
    path = saved(images(make_folder({"a": 8, "b": 8})), Flat(48, 2))
    with pytest.raises(ValueError, match=said):
        trainer().test(Flat(48, 2), datamodule=images(make_folder(classes, "more", seed=9)), ckpt_path=path)


def test_another_order_of_the_classes_is_refused() -> None:
    data = DigitsDataModule()
    data.setup("fit")
    with pytest.raises(ValueError, match=r"in the order 9, 8, .*, 0, but the data has them in the order 0, 1, .*, 9: "):
        data.load_state_dict({**data.state_dict(), "class_names": data.class_names[::-1]})


def test_a_fold_goes_on_as_the_same_fold() -> None:
    def fold(k: int | None) -> DigitsDataModule:
        data = DigitsDataModule()
        if k is not None:
            data.setup_fold(k, 5, 1)
        return data

    path = saved(fold(0), Flat())
    trainer(3).fit(Flat(), datamodule=fold(0), ckpt_path=path, weights_only=True)
    trainer().test(Flat(), datamodule=fold(None), ckpt_path=path, weights_only=True)
    for other in (1, None):
        with pytest.raises(ValueError, match="trained with --fold 1/5@1, and this run goes on with"):
            trainer(3).fit(Flat(), datamodule=fold(other), ckpt_path=path, weights_only=True)


def test_a_share_goes_on_as_the_same_share() -> None:
    def share(name: str = "", *arguments) -> DigitsDataModule:
        data = DigitsDataModule()
        if name:
            getattr(data, f"setup_{name}")(*arguments)
        return data

    def goes_on(path: str, data: DigitsDataModule) -> None:
        trainer(3).fit(Flat(), datamodule=data, ckpt_path=path, weights_only=True)

    plain, nested = saved(share(), Flat(), "plain.ckpt"), saved(share("fold", 1, 5, 0, True), Flat(), "nested.ckpt")
    goes_on(nested, share("fold", 1, 5, 0, True))
    goes_on(plain, share("all", "kept"))
    with pytest.raises(
        ValueError, match="trained without --subset, and this run goes on with --subset 1259@0, so that"
    ):
        goes_on(plain, share("subset", 1259))  # all of them, normalised alike
    with pytest.raises(ValueError, match="trained with --held_out 2/5@0, and this run goes on without --held_out"):
        goes_on(nested, share())
    kept = saved(share("all", "kept"), Flat(), "kept.ckpt")
    with pytest.raises(ValueError, match="trained with --all_data kept, and this run goes on without --all_data"):
        goes_on(kept, share())
