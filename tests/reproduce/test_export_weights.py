"""Plain weights that timm, safetensors and PyTorch load, and that tell where they come from."""

from __future__ import annotations

import hashlib
import logging
import os
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from lightning.pytorch import LightningModule
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from lightning_rules import export_weights
from lightning_rules.testing.demo import DemoClassifier

NET = "resnet10t"


def save(path: str = "a.ckpt", **state: Any) -> str:
    torch.save(state, path)
    return path


class Backbone(LightningModule):
    """A network of timm inside a module, as projects write it."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = timm.create_model(NET, num_classes=3)
        self.scale = nn.Parameter(torch.ones(1))


def same(first: Any, second: Any) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_timm_loads_the_backbone() -> None:
    module = Backbone()
    save(state_dict=module.state_dict())
    assert export_weights("a.ckpt", "net.safetensors", prefix="backbone.") == Path("net.safetensors")
    loaded = timm.create_model(NET, num_classes=3, checkpoint_path="net.safetensors")
    assert same(loaded.state_dict(), module.backbone.state_dict())
    other = timm.create_model(NET, num_classes=3)
    timm.models.load_checkpoint(other, "net.safetensors", strict=True)
    assert same(other.state_dict(), module.backbone.state_dict())


def test_plain_pytorch_loads_all_of_it() -> None:
    module = Backbone()
    save(state_dict=module.state_dict())
    export_weights("a.ckpt", "all.safetensors")
    assert same(load_file("all.safetensors"), module.state_dict())


def test_a_shared_first_part_is_removed_and_said(caplog: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(logging.getLogger("lightning_rules"), "propagate", True)
    caplog.set_level(logging.INFO, "lightning_rules")
    weights = {f"model.{name}": value for name, value in nn.Linear(2, 2).state_dict().items()}
    save(state_dict=weights)
    export_weights("a.ckpt", "short.safetensors")
    assert set(load_file("short.safetensors")) == {"weight", "bias"}
    assert "all names begin with 'model.', which is removed; prefix='' keeps it" in caplog.text
    export_weights("a.ckpt", "long.safetensors", prefix="")
    assert set(load_file("long.safetensors")) == {"model.weight", "model.bias"}


def test_a_numbered_layer_keeps_its_number() -> None:
    save(state_dict=nn.Sequential(nn.Linear(2, 2)).state_dict())
    export_weights("a.ckpt", "net.safetensors")
    assert set(load_file("net.safetensors")) == {"0.weight", "0.bias"}


def test_shared_and_transposed_weights_are_each_written() -> None:
    whole = torch.arange(6.0).reshape(2, 3)
    save(state_dict={"a.encoder": whole, "b.decoder": whole, "c.row": whole[1], "d.turned": whole.t()})
    export_weights("a.ckpt", "net.safetensors")
    loaded = load_file("net.safetensors")
    assert torch.equal(loaded["a.encoder"], loaded["b.decoder"])
    assert torch.equal(loaded["c.row"], whole[1])
    assert torch.equal(loaded["d.turned"], whole.t())


def test_the_file_tells_where_it_comes_from(train: Callable[..., Any], keep: Any, here: Any) -> None:
    class Scored(DemoClassifier):
        def on_train_epoch_end(self) -> None:
            self.log("score", 1.0)

    rule = keep()
    train(rule, module=Scored())
    export_weights(rule.best_model_path, "net.safetensors")
    with safe_open("net.safetensors", "pt") as file:
        origin = file.metadata()
    assert origin == {
        "format": "pt",
        "source_sha256": hashlib.sha256(Path(rule.best_model_path).read_bytes()).hexdigest(),
        "run": rule.run_record["run"],
        "record_id": rule.run_record["id"],
        "commit": here("rev-parse", "HEAD"),
        "snapshot": here("rev-parse", "HEAD"),
        "step": "2",
    }
    fresh = DemoClassifier()
    fresh.net.load_state_dict(load_file("net.safetensors"))


def test_a_plain_state_dict_is_a_source_too() -> None:
    torch.save(nn.Linear(2, 3).state_dict(), "plain.pt")
    export_weights("plain.pt", "net.safetensors")
    assert load_file("net.safetensors")["weight"].shape == (3, 2)


class Dangerous:
    """Would run code if it were unpickled."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("executed",)


@pytest.mark.parametrize(("value", "named"), [(Namespace(), "argparse.Namespace"), (Dangerous(), "posix.mkdir")])
def test_what_a_safe_load_refuses_is_named_and_never_run(value: Any, named: str) -> None:
    save(state_dict={"w": torch.ones(1)}, odd=value)
    with pytest.raises(ValueError, match=f"does not load safely .it holds values of {named}.*if you trust it"):
        export_weights("a.ckpt", "net.safetensors")
    assert os.listdir() == ["a.ckpt"]


def test_wrong_sources_are_one_sentence() -> None:
    Path("text.ckpt").write_text("not a checkpoint")
    save("empty.ckpt", state_dict={})
    save("net.ckpt", state_dict={"net.w": torch.ones(1), "head.w": torch.ones(1)})
    torch.save([1, 2], "list.ckpt")
    for source, error, said in [
        ("missing.ckpt", FileNotFoundError, "There is no checkpoint missing.ckpt"),
        ("text.ckpt", ValueError, "text.ckpt does not load safely"),
        ("empty.ckpt", ValueError, "holds no weights"),
        ("list.ckpt", ValueError, "to hold a checkpoint or a state dict, but got list"),
        ("net.ckpt", ValueError, r"begins with 'backbone\.'; names begin with 'head\.', 'net\.'"),
    ]:
        with pytest.raises(error, match=said):
            export_weights(source, "net.safetensors", prefix="backbone.")
    with pytest.raises(OSError, match=r"The file gone/net.safetensors was not written \(.*No such file"):
        export_weights("net.ckpt", "gone/net.safetensors")
    assert sorted(os.listdir()) == ["empty.ckpt", "list.ckpt", "net.ckpt", "text.ckpt"]


def test_without_safetensors_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(ImportError, match=r"install `lightning-rules\[train\]`"):
        export_weights("a.ckpt", "net.safetensors")
