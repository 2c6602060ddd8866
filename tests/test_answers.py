"""What a network answers, heard in the run's own steps, against what the step computed itself."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import lightning.pytorch as L
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

from lightning_rules.answers import Answers, AnswerWatch
from lightning_rules.rule import NotApplicable
from lightning_rules.view import View

X = torch.randn(16, 6, generator=torch.Generator().manual_seed(0))
Y = torch.randint(3, (16,), generator=torch.Generator().manual_seed(1))
SEQUENCES = torch.randn(16, 5, 6, generator=torch.Generator().manual_seed(2))
TAGS = torch.randint(3, (16, 5), generator=torch.Generator().manual_seed(3))
IMAGES = torch.randn(16, 1, 4, 4, generator=torch.Generator().manual_seed(4))
MASKS = torch.randint(3, (16, 4, 4), generator=torch.Generator().manual_seed(5))
VALUES = torch.randn(16, generator=torch.Generator().manual_seed(6))


def mlp(outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Dropout(0.1), nn.Linear(4, outputs))


class Module(L.LightningModule):
    def __init__(self, net: nn.Module, loss: Callable[[nn.Module, Any], Tensor]) -> None:
        super().__init__()
        self.net, self.loss = net, loss

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.loss(self.net, batch)

    def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.loss(self.net, batch)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.01)


class Listener(L.Callback):
    """Listens in training and validation, and keeps the answers with the losses that the steps gave."""

    def __init__(self) -> None:
        self.heard: dict[str, list[tuple[Answers | None, Tensor]]] = {"train": [], "val": []}
        self.watch: AnswerWatch | None = None
        self.refusal = ""

    def on_train_start(self, trainer: Any, module: Any) -> None:
        try:
            self.watch = AnswerWatch(View(trainer, module))
        except NotApplicable as refusal:
            self.refusal = str(refusal)

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if self.watch:
            self.watch.attach()

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.watch:
            self.heard["train"].append((self.watch.answers(batch), outputs["loss"]))
            assert self.watch.inputs(batch) is batch[0] or torch.equal(self.watch.inputs(batch), batch[0])
            self.watch.detach()

    def on_validation_start(self, trainer: Any, module: Any) -> None:
        if self.watch:
            self.watch.attach()

    def on_validation_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.watch:
            self.heard["val"].append((self.watch.answers(batch), outputs))
            assert self.watch.answers(batch) is None  # handed over once
            copied = pickle.loads(pickle.dumps(copy.deepcopy(module.net)))
            copied(batch[0])
            assert self.watch.answers(batch) is None  # a copy is heard by nobody

    def on_validation_end(self, trainer: Any, module: Any) -> None:
        if self.watch:
            self.watch.detach()


def listen(net: nn.Module, loss: Any, *data: Tensor, **options: Any) -> Listener:
    torch.manual_seed(0)
    loader = DataLoader(TensorDataset(*data), 8)
    listener = Listener()
    module = Module(net, loss)
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[listener],
        **options,
    )
    trainer.fit(module, loader, loader)
    assert not any(part._forward_hooks for part in module.modules())
    return listener


def cross_entropy(net: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(net(batch[0]), batch[1])


class LastStep(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.GRU(6, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0])[:, -1]


class Recomputed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(3)

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.net, x, use_reentrant=False)


LOSSES: dict[str, Callable[[Answers], Tensor]] = {
    "softmax": lambda a: F.cross_entropy(a.outputs[a.known], a.targets[a.known]),
    "sigmoid": lambda a: F.binary_cross_entropy_with_logits(a.outputs, a.targets),
    "mean": lambda a: F.mse_loss(a.outputs, a.targets),
    "median": lambda a: F.l1_loss(a.outputs, a.targets),
}
CASES: dict[str, tuple[nn.Module, Any, tuple[Tensor, ...], tuple[int, ...], int]] = {
    "classes": (mlp(3), cross_entropy, (X, Y), (8, 3), 1),
    "log probabilities": (
        mlp(3),
        lambda net, b: F.nll_loss(F.log_softmax(net(b[0]), 1), b[1]),
        (X, Y),
        (8, 3),
        1,
    ),
    "one logit": (
        mlp(1),
        lambda net, b: F.binary_cross_entropy_with_logits(net(b[0])[:, 0], (b[1]).float()),
        (X, (Y > 0).long()),
        (8, 1),
        1,
    ),
    "one probability": (
        mlp(1),
        lambda net, b: F.binary_cross_entropy(net(b[0]).sigmoid(), b[1].float().unsqueeze(1)),
        (X, (Y > 0).long()),
        (8, 1),
        1,
    ),
    "one-hot by the step": (
        mlp(3),
        lambda net, b: F.binary_cross_entropy_with_logits(net(b[0]), F.one_hot(b[1], 3).float()),
        (X, Y),
        (8, 3),
        1,
    ),
    "values": (mlp(1), lambda net, b: F.mse_loss(net(b[0]).squeeze(-1), b[1]), (X, VALUES), (8, 1), 1),
    "several values": (mlp(6), lambda net, b: F.l1_loss(net(b[0]), b[0]), (X,), (8, 6), 1),
    "pixels": (nn.Conv2d(1, 3, 3, padding=1), cross_entropy, (IMAGES, MASKS), (128, 3), 16),
    "pixels as rows": (
        nn.Conv2d(1, 3, 3, padding=1),
        lambda net, b: F.cross_entropy(net(b[0]).permute(0, 2, 3, 1).reshape(-1, 3), b[1].flatten(), ignore_index=2),
        (IMAGES, MASKS),
        (128, 3),
        16,
    ),
    "tags": (
        mlp(3),
        lambda net, b: F.cross_entropy(net(b[0]).transpose(1, 2), b[1]),
        (SEQUENCES, TAGS),
        (40, 3),
        5,
    ),
    "last step": (LastStep(), cross_entropy, (SEQUENCES, Y), (8, 3), 1),
    "activations made twice": (Recomputed(), cross_entropy, (X, Y), (8, 3), 1),
}


@pytest.mark.parametrize("case", CASES)
def test_the_loss_follows_from_what_is_heard(case: str) -> None:
    net, loss, data, shape, rows_per_example = CASES[case]
    listener = listen(copy.deepcopy(net), loss, *data)
    assert listener.refusal == ""
    for stage in ("train", "val"):
        assert len(listener.heard[stage]) == 2
        for answers, given in listener.heard[stage]:
            assert answers is not None
            assert answers.outputs.shape == shape
            assert answers.outputs.dtype is torch.float32
            assert not answers.outputs.requires_grad
            assert answers.rows_per_example == rows_per_example
            torch.testing.assert_close(LOSSES[answers.kind](answers), given)


def test_half_precision() -> None:
    listener = listen(mlp(3), cross_entropy, X, Y, precision="bf16-mixed")
    for answers, given in listener.heard["train"] + listener.heard["val"]:
        assert answers is not None
        torch.testing.assert_close(LOSSES["softmax"](answers), given)


def test_labels_stand_for_targets_that_the_step_mixes() -> None:
    def mixed(net: nn.Module, batch: Any) -> Tensor:
        one = F.one_hot(batch[1], 3).float()
        return F.cross_entropy(net(batch[0]), 0.7 * one + 0.3 * one.flip(0))

    for answers, _ in listen(mlp(3), mixed, X, Y).heard["val"]:
        assert answers is not None
        assert answers.targets.shape == (8,)
    answers, _ = listen(mlp(3), mixed, X, Y).heard["train"][0]
    assert answers is not None
    torch.testing.assert_close(answers.targets, Y[:8])


def compiled(net: nn.Module) -> nn.Module:
    net.compile(backend="eager")
    return net


REFUSED: dict[str, tuple[nn.Module, Any, str]] = {
    "own loss": (mlp(3), lambda net, b: net(b[0]).square().mean(), "none of torch's loss functions"),
    "masked logits": (
        mlp(3),
        lambda net, b: F.cross_entropy(net(b[0]) * 2, b[1]),
        "no layer feeds cross_entropy directly",
    ),
    "labels changed": (mlp(4), lambda net, b: F.cross_entropy(net(b[0]), b[1] + 1), "not found in the batch"),
    "two runs": (
        mlp(3),
        lambda net, b: F.cross_entropy(net(b[0]), b[1]) + 0 * net(b[0]).sum(),
        "runs several times",
    ),
    "compiled module": (torch.compile(mlp(3), backend="eager"), cross_entropy, "within compiled code"),
    "compiled in place": (compiled(mlp(3)), cross_entropy, "within compiled code"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_heard_is_refused_in_plain_words(case: str) -> None:
    net, loss, reason = REFUSED[case]
    assert reason in listen(net, loss, X, Y).refusal


def test_readings_of_answers() -> None:
    classes = Answers("softmax", torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.0, 1.0]]), torch.tensor([0, 0, -1]))
    assert classes.labels.tolist() == [0, 1, 1]
    assert classes.correct.tolist() == [True, False, False]
    assert classes.known.tolist() == [True, True, False]
    torch.testing.assert_close(classes.confidence[0], torch.sigmoid(torch.tensor(2.0)))
    one = Answers("sigmoid", torch.tensor([[-3.0], [1.0]]), torch.tensor([[0.0], [0.0]]))
    assert one.labels.tolist() == [0, 1]
    assert one.correct.tolist() == [True, False]
    torch.testing.assert_close(one.confidence, torch.sigmoid(torch.tensor([3.0, 1.0])))
    several = Answers("sigmoid", torch.tensor([[-3.0, 1.0]]), torch.tensor([[0.0, 1.0]]))
    assert several.labels.tolist() == [[0, 1]]
    assert several.correct.tolist() == [True]
    torch.testing.assert_close(several.confidence, torch.sigmoid(torch.tensor([1.0])))
    with pytest.raises(ValueError, match="regression has no labels"):
        _ = Answers("mean", torch.zeros(2, 1), torch.zeros(2, 1)).correct
