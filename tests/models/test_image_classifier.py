import logging
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from lightning_recipe.models import ImageClassifier

TINY = "test_resnet"


@pytest.mark.parametrize("backbone", [TINY, "test_convnext", "test_vit", "test_efficientnet", "lcnet_035"])
def test_every_family_learns_one_batch(backbone: str, make_trainer, blobs) -> None:
    module = ImageClassifier(backbone, 3, in_chans=1, image_size=32, lr=1e-3)
    data = blobs(count=6)
    before = F.cross_entropy(module(data.x), data.y).item()
    make_trainer(max_epochs=4).fit(module, datamodule=data)
    module.train()
    after = F.cross_entropy(module(data.x), data.y)
    after.backward()
    assert after.item() < before
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


def test_metrics_are_over_the_whole_epoch_with_an_uneven_last_batch(make_trainer, blobs) -> None:
    module = ImageClassifier(TINY, 3, in_chans=1)
    data = blobs(count=22, batch_size=8)  # 8, 8, 6
    measured = make_trainer().test(module, datamodule=data, verbose=False)[0]
    with torch.no_grad():
        logits = module.eval()(data.x)
    assert measured["test/loss"] == pytest.approx(F.cross_entropy(logits, data.y).item(), rel=1e-5)
    assert measured["test/accuracy"] == pytest.approx((logits.argmax(1) == data.y).float().mean().item())


def test_training_metrics_weigh_every_example_alike(make_trainer, blobs) -> None:
    # A rate of (nearly) 0 and a frozen body in eval mode: the batches see one and the same model.
    module = ImageClassifier(TINY, 3, in_chans=1, freeze_backbone=True, lr=1e-12, label_smoothing=0.1)
    data = blobs(count=22, batch_size=8)
    trainer = make_trainer(max_epochs=1)
    trainer.fit(module, datamodule=data)
    with torch.no_grad():
        logits = module.eval()(data.x)
    smoothed, plain = (F.cross_entropy(logits, data.y, label_smoothing=s).item() for s in (0.1, 0.0))
    metrics = trainer.callback_metrics
    assert metrics["train/loss"].item() == pytest.approx(smoothed, rel=1e-4)
    assert metrics["val/loss"].item() == pytest.approx(plain, rel=1e-4)
    accuracy = (logits.argmax(1) == data.y).float().mean().item()
    assert metrics["train/accuracy"].item() == pytest.approx(accuracy)
    assert metrics["val/accuracy"].item() == pytest.approx(accuracy)


@pytest.mark.parametrize("backbone", [TINY, "test_vit"])
def test_frozen_backbone_trains_the_head_only(backbone: str, make_trainer, blobs) -> None:
    module = ImageClassifier(backbone, 3, in_chans=1, image_size=32, freeze_backbone=True, lr=0.1)
    before = {key: value.clone() for key, value in module.backbone.state_dict().items()}
    make_trainer(max_epochs=2).fit(module, datamodule=blobs())
    head = module.backbone.pretrained_cfg["classifier"]
    changed = {k for k, v in module.backbone.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {f"{head}.weight", f"{head}.bias"}


def test_frozen_backbone_keeps_the_dropout_before_the_head() -> None:
    module = ImageClassifier(TINY, 3, in_chans=1, freeze_backbone=True, drop_rate=0.5).train()
    x = torch.randn(2, 1, 32, 32)
    assert not torch.equal(module(x), module(x))
    module.eval()
    assert torch.equal(module(x), module(x))


def test_slower_backbone_has_groups_of_its_own(make_trainer, blobs) -> None:
    module = ImageClassifier(TINY, 3, in_chans=1, lr=1e-2, weight_decay=0.1, backbone_lr_scale=0.1)
    trainer = make_trainer(max_epochs=1, limit_train_batches=1, limit_val_batches=0)
    trainer.fit(module, datamodule=blobs())
    groups = {group["name"]: group for group in trainer.optimizers[0].param_groups}
    rates = {name: (group["lr"], group["weight_decay"]) for name, group in groups.items()}
    assert rates == {
        "backbone/decay": (pytest.approx(1e-3), 0.1),
        "backbone/no-decay": (pytest.approx(1e-3), 0.0),
        "head/decay": (1e-2, 0.1),
        "head/no-decay": (1e-2, 0.0),
    }
    assert sum(len(group["params"]) for group in groups.values()) == len(list(module.parameters()))
    assert all(p.ndim > 1 for name in ("backbone/decay", "head/decay") for p in groups[name]["params"])


def test_checkpoint_stands_alone(make_trainer, blobs, tmp_path: Path) -> None:
    start = tmp_path / "start.safetensors"
    save_file(timm.create_model(TINY, num_classes=3, in_chans=1).state_dict(), start)
    module = ImageClassifier(TINY, 3, in_chans=1, weights=str(start), label_smoothing=0.1)
    trainer = make_trainer(max_epochs=1)
    trainer.fit(module, datamodule=blobs())
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    start.unlink()
    again = ImageClassifier.load_from_checkpoint(tmp_path / "run.ckpt")
    assert again.hparams["label_smoothing"] == 0.1
    assert again.hparams["weights"] is None
    assert module.hparams["weights"] == str(start)
    x = torch.randn(2, 1, 32, 32)
    assert torch.equal(again.eval()(x), module.eval()(x))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_of_a_file_are_loaded_with_their_head(suffix: str, tmp_path: Path) -> None:
    made = timm.create_model("test_convnext", num_classes=7)
    path = tmp_path / f"made{suffix}"
    save_file(made.state_dict(), path) if suffix == ".safetensors" else torch.save(made.state_dict(), path)
    module = ImageClassifier("test_convnext", 7, weights=str(path))
    assert all(torch.equal(value, made.state_dict()[key]) for key, value in module.backbone.state_dict().items())


def test_weights_come_out_of_a_checkpoint_of_ours_for_other_classes(
    make_trainer, blobs, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    module = ImageClassifier(TINY, 3, in_chans=1)
    trainer = make_trainer(max_epochs=1)
    trainer.fit(module, datamodule=blobs())
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    with caplog.at_level(logging.INFO):
        other = ImageClassifier(TINY, 5, in_chans=1, weights="run.ckpt")
    assert "no head for 5 classes" in caplog.text
    assert torch.equal(other.backbone.conv1[0].weight, module.backbone.conv1[0].weight)
    assert other.backbone.get_classifier().weight.shape[0] == 5


def test_rgb_weights_are_adapted_to_grey_images(tmp_path: Path) -> None:
    made = timm.create_model(TINY, num_classes=3)
    save_file(made.state_dict(), tmp_path / "rgb.safetensors")
    module = ImageClassifier(TINY, 3, in_chans=1, weights="rgb.safetensors")
    assert torch.allclose(module.backbone.conv1[0].weight, made.conv1[0].weight.sum(1, keepdim=True))


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    save_file(timm.create_model("test_convnext", num_classes=3).state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"other.safetensors does not hold.*'test_resnet'.*missing: conv1") as caught:
        ImageClassifier(TINY, 3, weights="other.safetensors")
    assert "unexpected: head.fc" in str(caught.value)
    assert len(str(caught.value)) < 400


def test_weights_of_a_wider_network_name_the_shapes(tmp_path: Path) -> None:
    save_file(timm.create_model("lcnet_050", num_classes=3).state_dict(), tmp_path / "050.safetensors")
    with pytest.raises(ValueError, match=r"of another shape: conv_stem.weight \(8, 3, 3, 3\) instead of"):
        ImageClassifier("lcnet_100", 3, weights="050.safetensors")
    save_file(timm.create_model("test_vit2", num_classes=3).state_dict(), tmp_path / "vit2.safetensors")
    with pytest.raises(ValueError, match=r"does not hold the weights of backbone='test_vit'"):
        ImageClassifier("test_vit", 3, weights="vit2.safetensors")


def test_weights_that_are_no_weights(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"weights='none.pth' is no file: give the path"):
        ImageClassifier(TINY, 3, weights="none.pth")
    (tmp_path / "text.safetensors").write_text("not weights")
    with pytest.raises(ValueError, match=r"weights='text.safetensors' cannot be read .*: give a"):
        ImageClassifier(TINY, 3, weights="text.safetensors")


def test_checkpoint_of_another_architecture_is_refused(make_trainer, blobs, tmp_path: Path) -> None:
    trainer = make_trainer(max_epochs=1)
    trainer.fit(ImageClassifier(TINY, 3, in_chans=1), datamodule=blobs())
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    for other in (ImageClassifier("test_convnext", 3, in_chans=1), ImageClassifier(TINY, 4, in_chans=1)):
        other.num_classes = 3
        with pytest.raises(ValueError, match="The checkpoint is of another architecture than this ImageClassifier"):
            make_trainer().test(other, datamodule=blobs(), ckpt_path=tmp_path / "run.ckpt", verbose=False)


def test_unknown_names_offer_the_closest() -> None:
    with pytest.raises(ValueError, match=r"backbone='resnet81' is unknown to timm.*such as .*resnet18"):
        ImageClassifier("resnet81", 3)
    with pytest.raises(ValueError, match=r"weights 'a9_in1k', which timm does not have for resnet18"):
        ImageClassifier("resnet18.a9_in1k", 3)
    with pytest.raises(ValueError, match=r"optimizer='adamv' is unknown to timm.*such as adam"):
        ImageClassifier(TINY, 3, optimizer="adamv")
    with pytest.raises(ValueError, match=r"scheduler='cosin' is unknown.*such as cosine"):
        ImageClassifier(TINY, 3, scheduler="cosin")
    with pytest.raises(ValueError, match=r"num_classes=1 was given"):
        ImageClassifier(TINY, 1)
    with pytest.raises(ValueError, match=r"drop one of the two"):
        ImageClassifier(TINY, 3, pretrained=True, weights="a.pth")
    with pytest.raises(ValueError, match=r"timm has no pretrained weights of resnetv2_50d.*pretrained: false"):
        ImageClassifier("resnetv2_50d", 3, pretrained=True)


def test_classes_that_disagree_with_the_data(make_trainer, blobs) -> None:
    with pytest.raises(ValueError, match=r"num_classes=4, but Blobs has 3 classes: set .* to 3"):
        make_trainer().fit(ImageClassifier(TINY, 4, in_chans=1), datamodule=blobs())
    data = blobs()
    data.y[5] = 3
    with pytest.raises(ValueError, match=r"The train split has labels from 0 to 3, but num_classes=3 expects 0 to 2"):
        make_trainer().fit(ImageClassifier(TINY, 3, in_chans=1), datamodule=data)


def test_labels_out_of_range_without_a_datamodule(make_trainer, blobs) -> None:
    data = blobs()
    data.y[1] = -1
    module = ImageClassifier(TINY, 3, in_chans=1)
    with pytest.raises(ValueError, match=r"The batch has labels from -1 to 2"):
        make_trainer().fit(module, train_dataloaders=data.train_dataloader())
    with pytest.raises(ValueError, match=r"The batch has labels from -1 to 2"):
        make_trainer().test(module, data.train_dataloader(), verbose=False)
    data.y = data.y.float()
    with pytest.raises(ValueError, match=r"labels of type torch.float32, but class labels are integers"):
        make_trainer().fit(module, train_dataloaders=data.train_dataloader())
