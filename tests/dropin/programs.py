"""Training programs that never heard of lightning-rules, in the styles met in the wild; all of them healthy.

Each is a function of a namespace (``lightning.pytorch`` or ``pytorch_lightning``) and returns a module, what
``fit`` is given, and options of the Trainer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

Program = tuple[Any, Any, dict[str, Any]]


def digits(count: int = 320) -> tuple[Tensor, Tensor]:
    bunch = load_digits()
    inputs = torch.tensor(bunch.data[:count], dtype=torch.float32)
    return (inputs - inputs.mean()) / inputs.std(), torch.tensor(bunch.target[:count])


class Rows(Dataset):
    """Examples made by a function from an image and its label."""

    def __init__(self, make: Callable[[Tensor, Tensor], Any], count: int = 320) -> None:
        self.inputs, self.labels_ = digits(count)
        self.make = make

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> Any:
        return self.make(self.inputs[index], self.labels_[index])


def mlp(outputs: int = 10) -> nn.Module:
    return nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, outputs))


def classifier(L: Any, step: Callable[[Any, Any], Any] | None = None, **attributes: Any) -> Any:
    class Classifier(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp()
            for name, value in attributes.items():
                setattr(self, name, value)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if step is not None:
                return step(self, batch)
            x, y = batch
            loss = F.cross_entropy(self.net(x), y)
            self.log("train_loss", loss, prog_bar=True, on_step=True, on_epoch=True)
            return loss

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), 1e-3)

    return Classifier()


def plain(L: Any) -> Program:
    return classifier(L), DataLoader(TensorDataset(*digits()), 32, shuffle=True), {}


def workers(L: Any) -> Program:
    loader = DataLoader(TensorDataset(*digits()), 32, shuffle=True, num_workers=1, persistent_workers=True)
    return classifier(L), loader, {}


def boring(L: Any) -> Program:
    from importlib import import_module

    module = import_module(f"{L.__name__}.demos.boring_classes").BoringModel()
    return module, None, {"limit_train_batches": 4, "limit_val_batches": 2}


def boring_manual(L: Any) -> Program:
    from importlib import import_module

    module = import_module(f"{L.__name__}.demos.boring_classes").ManualOptimBoringModel()
    return module, None, {"limit_train_batches": 4, "limit_val_batches": 2}


def transformer(L: Any) -> Program:
    from importlib import import_module

    net = import_module(f"{L.__name__}.demos").Transformer(vocab_size=50, ninp=16, nhead=2, nhid=16, nlayers=1)

    class LanguageModel(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = net

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            inputs, target = batch
            output = self.model(inputs, target)
            return F.nll_loss(output, target.view(-1))

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.1)

    tokens = torch.randint(50, (64, 8))
    return LanguageModel(), DataLoader(TensorDataset(tokens, tokens.roll(-1, 1)), 8), {}


def two_optimizers(L: Any) -> Program:
    class GAN(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.generator, self.discriminator = nn.Linear(8, 64), mlp(1)

        def training_step(self, batch: Any, batch_idx: int) -> None:
            real = batch[0]
            opt_g, opt_d = self.optimizers()
            fake = self.generator(torch.randn(len(real), 8))
            self.toggle_optimizer(opt_d)
            ones, zeros = torch.ones(len(real), 1), torch.zeros(len(real), 1)
            loss = F.binary_cross_entropy_with_logits(self.discriminator(real), ones)
            loss = loss + F.binary_cross_entropy_with_logits(self.discriminator(fake.detach()), zeros)
            opt_d.zero_grad()
            self.manual_backward(loss)
            opt_d.step()
            self.untoggle_optimizer(opt_d)
            opt_g.zero_grad()
            self.manual_backward(F.binary_cross_entropy_with_logits(self.discriminator(fake), ones))
            opt_g.step()
            for scheduler in self.lr_schedulers():
                scheduler.step()

        def configure_optimizers(self) -> Any:
            optimizers = [torch.optim.Adam(part.parameters(), 1e-4) for part in (self.generator, self.discriminator)]
            return optimizers, [torch.optim.lr_scheduler.ExponentialLR(o, 0.99) for o in optimizers]

    return GAN(), DataLoader(TensorDataset(*digits()), 32), {}


def manual_closure(L: Any) -> Program:
    class Closure(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.net = nn.Linear(64, 10)

        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizer = self.optimizers()

            def closure() -> Tensor:
                loss = F.cross_entropy(self.net(batch[0]), batch[1])
                optimizer.zero_grad()
                self.manual_backward(loss)
                return loss

            optimizer.step(closure=closure)

        def configure_optimizers(self) -> Any:
            return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=2)

    return Closure(), DataLoader(TensorDataset(*digits()), 64), {}


def direct_backward(L: Any) -> Program:
    """Manual optimisation that calls backward and its own optimiser, without Lightning's wrappers."""

    class Direct(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.net = mlp()
            self.steps = 0

        def training_step(self, batch: Any, batch_idx: int) -> None:
            loss = F.cross_entropy(self.net(batch[0]), batch[1])
            loss.backward()
            if (self.steps + 1) % 2 == 0:
                self.optimizers().step()
                self.optimizers().zero_grad()
            self.steps += 1

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.05, momentum=0.9)

    return Direct(), DataLoader(TensorDataset(*digits()), 32), {}


def dict_batches(L: Any) -> Program:
    def step(self: Any, batch: Any) -> dict[str, Tensor]:
        labels = batch.pop("labels")  # as many Hugging Face loops do
        return {"loss": F.cross_entropy(self.net(batch["pixel_values"]), labels)}

    rows = Rows(lambda x, y: {"pixel_values": x, "labels": y, "meta": {"id": 1}})
    return classifier(L, step), DataLoader(rows, 32, shuffle=True), {}


class Sample(NamedTuple):
    image: Tensor
    label: Tensor


@dataclass
class Item:
    data: Tensor
    target: Tensor


def named_tuples(L: Any) -> Program:
    step = lambda self, batch: F.cross_entropy(self.net(batch.image), batch.label)  # noqa: E731
    return classifier(L, step), DataLoader(Rows(lambda x, y: Sample(x, y)), 32), {}


def dataclass_batches(L: Any) -> Program:
    def collate(items: list[Item]) -> Item:
        return Item(torch.stack([i.data for i in items]), torch.stack([i.target for i in items]))

    step = lambda self, batch: F.cross_entropy(self.net(batch.data), batch.target)  # noqa: E731
    return classifier(L, step), DataLoader(Rows(Item), 32, collate_fn=collate), {}


def views_without_labels(L: Any) -> Program:
    def step(self: Any, batch: Any) -> Tensor:
        (one, two), _ = batch
        one, two = F.normalize(self.net(one)), F.normalize(self.net(two))
        return F.cross_entropy(one @ two.T / 0.1, torch.arange(len(one)))

    rows = Rows(lambda x, y: ([x + 0.1 * torch.randn(64), x + 0.1 * torch.randn(64)], y))
    return classifier(L, step), DataLoader(rows, 32, shuffle=True), {}


def autoencoder(L: Any) -> Program:
    class AutoEncoder(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 64))

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            (x,) = batch
            return F.mse_loss(self.net(x), x)

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters())

    return AutoEncoder(), DataLoader(TensorDataset(digits()[0]), 32), {}


class Stream(IterableDataset):
    """Fresh at every pass, with a generator and a counter of its own."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(3)
        self.served = 0

    def __iter__(self) -> Iterator[Any]:
        inputs, labels = digits()
        for index in torch.randperm(len(inputs), generator=self.generator):
            self.served += 1
            yield inputs[index], labels[index]


class OneShot(IterableDataset):
    """A stream that can be read once only."""

    def __init__(self) -> None:
        inputs, labels = digits()
        self.source = (pair for pair in zip(inputs, labels, strict=True))

    def __iter__(self) -> Iterator[Any]:
        return iter(self.source)


def iterable(L: Any) -> Program:
    return classifier(L), DataLoader(Stream(), 32), {}


def one_shot(L: Any) -> Program:
    return classifier(L), DataLoader(OneShot(), 32), {"max_epochs": 1}


class OwnLoader:
    """Batches without torch's DataLoader."""

    def __iter__(self) -> Iterator[Any]:
        inputs, labels = digits()
        yield from zip(inputs.split(32), labels.split(32), strict=True)


def own_loader(L: Any) -> Program:
    return classifier(L), OwnLoader(), {}


def several_loaders(L: Any) -> Program:
    def step(self: Any, batch: Any) -> Tensor:
        (x1, y1), (x2, y2) = batch["a"], batch["b"]
        return F.cross_entropy(self.net(torch.cat([x1, x2])), torch.cat([y1, y2]))

    loaders = {key: DataLoader(TensorDataset(*digits()), 16, shuffle=True) for key in "ab"}
    return classifier(L, step), loaders, {}


def metrics_and_loggers(L: Any) -> Program:
    def step(self: Any, batch: Any) -> Tensor:
        logits = self.net(batch[0])
        self.accuracy(logits, batch[1])
        self.log("acc", self.accuracy, on_step=False, on_epoch=True)
        self.listed[0].update(logits, batch[1])
        self.outputs.append(logits.detach().mean())
        self.logger.experiment.add_scalar("x", 1.0)
        self.total += logits.detach().sum()
        return F.cross_entropy(logits, batch[1])

    module = classifier(
        L, step, accuracy=MulticlassAccuracy(10), listed=[MulticlassAccuracy(10)], outputs=[], total=torch.zeros(())
    )
    from importlib import import_module

    logger = import_module(f"{L.__name__}.loggers").TensorBoardLogger("tb")
    return module, DataLoader(TensorDataset(*digits()), 32, shuffle=True), {"logger": logger}


def state_from_hooks(L: Any) -> Program:
    """A step that needs what on_train_epoch_start makes: a probe before it cannot run."""

    class Needy(type(classifier(L))):  # type: ignore[misc]
        def on_train_epoch_start(self) -> None:
            self.margin = 0.0

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self.net(batch[0]) - self.margin, batch[1])

    return Needy(), DataLoader(TensorDataset(*digits()), 32), {}


def loader_iterator(L: Any) -> Program:
    class Drawing(type(classifier(L))):  # type: ignore[misc]
        def training_step(self, dataloader_iter: Any) -> Tensor:
            (x, y), _, _ = next(dataloader_iter)
            return F.cross_entropy(self.net(x), y)

    return Drawing(), DataLoader(TensorDataset(*digits()), 32), {}


def own_loss(L: Any) -> Program:
    step = lambda self, batch: -F.logsigmoid(self.net(batch[0])).mean()  # noqa: E731
    return classifier(L, step), DataLoader(TensorDataset(*digits()), 32), {}


def sometimes_none(L: Any) -> Program:
    return classifier(L, lambda self, batch: None), DataLoader(TensorDataset(*digits()), 32), {}


def nested_nan_targets(L: Any) -> Program:
    def step(self: Any, batch: Any) -> Tensor:
        target = batch["sample"]["y"]
        known = torch.isfinite(target)
        return F.mse_loss(self.net(batch["sample"]["x"])[:, 0][known], target[known])

    def make(x: Tensor, y: Tensor) -> Any:
        return {"sample": {"x": x, "y": torch.where(y == 3, torch.nan, y / 9.0), "none": None}}

    def collate(items: list[Any]) -> Any:
        samples = [item["sample"] for item in items]
        return {"sample": {k: torch.stack([s[k] for s in samples]) for k in "xy"} | {"none": None}}

    return classifier(L, step), DataLoader(Rows(make), 32, collate_fn=collate), {}


def float64(L: Any) -> Program:
    inputs, labels = digits()
    return classifier(L).double(), DataLoader(TensorDataset(inputs.double(), labels), 32), {"precision": "64-true"}


def bf16(L: Any) -> Program:
    return classifier(L), DataLoader(TensorDataset(*digits()), 32, shuffle=True), {"precision": "bf16-mixed"}


def accumulation_and_overfit(L: Any) -> Program:
    options = {"accumulate_grad_batches": 4, "overfit_batches": 4, "gradient_clip_val": 1.0}
    return classifier(L), DataLoader(TensorDataset(*digits()), 32, shuffle=True), options


def sequences(L: Any, step: Callable[[Any, Any], Any] | None = None, **attributes: Any) -> Any:
    """Digits read row by row by an LSTM."""

    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = nn.LSTM(8, 16, batch_first=True), nn.Linear(16, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.rnn(x.view(-1, 8, 8))[0][:, -1])

    return classifier(L, step, net=Reader(), **attributes)


def recurrent(L: Any) -> Program:
    """Its gradients are larger than the rules allow."""
    step = lambda self, batch: 10 * F.cross_entropy(self.net(batch[0]), batch[1])  # noqa: E731
    return sequences(L, step), DataLoader(TensorDataset(*digits()), 32, shuffle=True), {"log_every_n_steps": 4}


def recurrent_clipped_by_the_trainer(L: Any) -> Program:
    return sequences(L), DataLoader(TensorDataset(*digits()), 32, shuffle=True), {"gradient_clip_val": 0.1}


def recurrent_by_hand(L: Any) -> Program:
    """Steps by hand on gradients of several batches, clipped by the module's own call."""

    def step(self: Any, batch: Any) -> None:
        optimizer = self.optimizers()
        self.manual_backward(F.cross_entropy(self.net(batch[0]), batch[1]) / 2)
        self.calls += 1
        if self.calls % 2 == 0:
            self.clip_gradients(optimizer, gradient_clip_val=0.5, gradient_clip_algorithm="norm")
            optimizer.step()
            optimizer.zero_grad()

    module = sequences(L, step, automatic_optimization=False, calls=0)
    return module, DataLoader(TensorDataset(*digits()), 32), {}


PROGRAMS = [
    plain, workers, boring, boring_manual, transformer, two_optimizers, manual_closure, direct_backward, dict_batches,
    named_tuples, dataclass_batches, views_without_labels, autoencoder, iterable, one_shot, own_loader,
    several_loaders, metrics_and_loggers, state_from_hooks, loader_iterator, own_loss, sometimes_none,
    nested_nan_targets, float64, bf16, accumulation_and_overfit, recurrent, recurrent_clipped_by_the_trainer,
    recurrent_by_hand,
]  # fmt: skip
