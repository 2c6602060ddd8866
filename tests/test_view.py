"""The view: batches beside the loader, the user's own step, the head behind each loss."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as L
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_rules.losses import seen_losses
from lightning_rules.rule import NotApplicable
from lightning_rules.view import View


class Ask(L.Callback):
    """Calls a function with a view at the start of training."""

    def __init__(self, ask: Any) -> None:
        self.ask = ask
        self.answer: Any = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.answer = self.ask(View(trainer, pl_module))


class Model(L.LightningModule):
    def __init__(self, net: Any = None, loss: Any = None) -> None:
        super().__init__()
        self.net = net or nn.Linear(3, 2)
        self.loss = loss or (lambda net, batch: F.cross_entropy(net(batch[0]), batch[1]))
        self.seen: list[Any] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.seen.append((batch, batch_idx))
        return self.loss(self.net, batch)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


def ask(question: Any, model: Any = None, loader: Any = None, **options: Any) -> Any:
    data = TensorDataset(torch.randn(40, 3), torch.arange(40) % 2)
    callback = Ask(question)
    options = {"max_epochs": 1, "limit_train_batches": 3} | options
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = L.Trainer(accelerator="cpu", callbacks=[callback], **quiet, **options)
    trainer.fit(Model() if model is None else model, loader or DataLoader(data, 8, shuffle=True))
    return callback.answer


@pytest.mark.filterwarnings("ignore")
def test_the_first_batches_are_read_beside_the_run() -> None:
    model = Model()
    loader = DataLoader(TensorDataset(torch.randn(40, 3), torch.arange(40) % 2), 8)
    peeked = ask(lambda view: view.batches(2), model, loader)
    for (inputs, labels), (batch, _) in zip(peeked, model.seen, strict=False):
        assert torch.equal(inputs, batch[0])
        assert torch.equal(labels, batch[1])
    assert len(peeked) == 2
    assert len(model.seen) == 3, "the run saw all of its batches"


@pytest.mark.filterwarnings("ignore")
def test_no_more_batches_than_the_run_has() -> None:
    assert len(ask(lambda view: view.batches(100))) == 3
    assert ask(lambda view: view.batches(2, lambda batch: len(batch[0]))) == [8, 8]


@pytest.mark.filterwarnings("ignore")
def test_persistent_workers_keep_their_place() -> None:
    data = TensorDataset(torch.arange(12.0)[:, None].expand(12, 3), torch.arange(12) % 2)
    model = Model()
    loader = DataLoader(data, 2, num_workers=2, persistent_workers=True, pin_memory=False)
    ask(lambda view: view.batches(4), model, loader, limit_train_batches=1.0, max_epochs=2)
    firsts = [batch[0][0, 0].item() for batch, _ in model.seen]
    assert firsts == [0.0, 2.0, 4.0, 6.0, 8.0, 10.0] * 2


def head_of(model: Any, batch: Any) -> Any:
    with seen_losses(model) as calls:
        model.training_step(batch, 0)
    return [(call.name, call.kind, call.head.name if call.head else None) for call in calls]


BATCH = (torch.randn(6, 3), torch.tensor([0, 1, 0, 1, 0, 1]))


@pytest.mark.parametrize(
    ("net", "loss", "expected"),
    [
        (nn.Linear(3, 2), lambda n, b: F.cross_entropy(n(b[0]), b[1]), ("cross_entropy", "softmax", "net")),
        (nn.Linear(3, 2), lambda n, b: nn.CrossEntropyLoss()(n(b[0]), b[1]), ("cross_entropy", "softmax", "net")),
        (
            nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)),
            lambda n, b: F.cross_entropy(n(b[0].expand(5, 6, 3)).view(-1, 2), b[1].repeat(5)),
            ("cross_entropy", "softmax", "net.2"),
        ),
        (
            nn.Linear(3, 2),
            lambda n, b: F.nll_loss(F.log_softmax(n(b[0]), -1), b[1]),
            ("nll_loss", "softmax", "net"),
        ),
        (
            nn.Linear(3, 1),
            lambda n, b: F.binary_cross_entropy_with_logits(n(b[0]).squeeze(1), b[1].float()),
            ("binary_cross_entropy_with_logits", "sigmoid", "net"),
        ),
        (
            nn.Linear(3, 1),
            lambda n, b: F.binary_cross_entropy(torch.sigmoid(n(b[0]))[:, 0], b[1].float()),
            ("binary_cross_entropy", "sigmoid", "net"),
        ),
        (nn.Linear(3, 1), lambda n, b: F.mse_loss(n(b[0])[:, 0].double(), b[1].double()), ("mse_loss", "mean", "net")),
        (
            nn.Sequential(nn.Unflatten(1, (3, 1)), nn.Conv1d(3, 2, 1), nn.Flatten()),
            lambda n, b: F.cross_entropy(n(b[0]), b[1]),
            ("cross_entropy", "softmax", "net.1"),
        ),
        # something that changes values stands between: no single layer makes the output
        (
            nn.Linear(3, 2),
            lambda n, b: F.cross_entropy(n(b[0]).softmax(1), b[1]),
            ("cross_entropy", "softmax", None),
        ),
        (nn.Linear(3, 2), lambda n, b: F.nll_loss(n(b[0]), b[1]), ("nll_loss", "softmax", None)),
        (nn.Linear(3, 2), lambda n, b: F.cross_entropy(n(b[0]) / 3, b[1]), ("cross_entropy", "softmax", None)),
        (
            nn.Linear(3, 3),
            lambda n, b: F.cross_entropy(n(b[0]) + b[0], b[1]),
            ("cross_entropy", "softmax", None),
        ),
    ],
    ids=range(12),
)
def test_the_head_behind_a_loss(net: Any, loss: Any, expected: Any) -> None:
    assert head_of(Model(net, loss), BATCH) == [expected]


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext", "test_efficientnet", "test_nfnet"])
def test_the_head_is_timms_own_classifier(name: str) -> None:
    net = timm.create_model(name, num_classes=2, pretrained=False)
    size = net.default_cfg["input_size"]
    found = head_of(Model(net), (torch.randn(2, *size), torch.tensor([0, 1])))
    (head,) = [f"net.{path}" for path, part in net.named_modules() if part is net.get_classifier()]
    assert found == [("cross_entropy", "softmax", head)]


@pytest.mark.filterwarnings("ignore")
def test_losses_for_show_are_left_out() -> None:
    def loss(net: Any, batch: Any) -> Tensor:
        logits = net(batch[0])
        F.mse_loss(logits[:, 0], batch[1].float())  # shown, not trained on
        with torch.no_grad():
            F.cross_entropy(logits, batch[1])
        return F.cross_entropy(logits, batch[1])

    def question(view: View) -> Any:
        with view.step(view.batches(1)[0]) as step:
            return [call.name for call in step.calls], float(step.loss.detach())

    names, value = ask(question, Model(loss=loss))
    assert names == ["cross_entropy"]
    assert value > 0


@pytest.mark.filterwarnings("ignore")
def test_a_step_in_the_view_logs_and_moves_nothing() -> None:
    class Loud(Model):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            self.log("loss", loss)
            self.log_dict({"a": 1.0})
            self.print("never printed")
            return {"loss": loss, "extra": 1}

    def question(view: View) -> Any:
        before = [p.clone() for p in view.module.parameters()]
        with view.step(view.batches(1)[0]) as step:
            step.loss.backward()
        same = all(torch.equal(p, q) for p, q in zip(view.module.parameters(), before, strict=True))
        return (
            same,
            [p.grad for p in view.module.parameters()],
            len(view.module.seen),
            dict(view.trainer.callback_metrics),
        )

    assert ask(question, Loud(), max_steps=0, max_epochs=-1, limit_train_batches=1) is None
    same, gradients, seen, metrics = ask(question, Loud())
    assert same
    assert gradients == [None, None]
    assert seen == 0
    assert metrics == {}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("step", "arguments"),
    [
        (lambda self, batch: None, 1),
        (lambda self, batch, batch_idx: None, 2),
        (lambda self, *args: None, 2),
        (lambda self, batch, batch_idx, dataloader_idx=0: None, 2),
    ],
)
def test_steps_of_all_signatures(step: Any, arguments: int) -> None:
    from lightning_rules.view import _arguments

    model = Model()
    given = _arguments(step.__get__(model), "batch", 7)
    assert given == ["batch", 7][:arguments]
    assert step.__get__(model)(*given) is None


@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be_probed_says_why() -> None:
    def question(view: View) -> str:
        view.trainer.strategy.__class__ = type("FSDPStrategy", (type(view.trainer.strategy),), {})
        with pytest.raises(NotApplicable, match="FSDPStrategy shards") as caught, view.step(view.batches(1)[0]):
            pass
        return str(caught.value)

    assert "sees only a part" in ask(question)

    def lazy(view: View) -> str:
        view.module.later = nn.LazyLinear(2)
        with pytest.raises(NotApplicable, match="lazy") as caught, view.step(view.batches(1)[0]):
            pass
        del view.module.later
        return str(caught.value)

    assert "first batch" in ask(lazy)


@pytest.mark.filterwarnings("ignore")
def test_a_compiled_module_is_seen_through() -> None:
    compiled = torch.compile(Model(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))), backend="eager")

    def question(view: View) -> Any:
        with view.step(view.batches(1)[0]) as step:
            return [call.head.name for call in step.calls]

    assert ask(question, compiled) == ["net.2"]
