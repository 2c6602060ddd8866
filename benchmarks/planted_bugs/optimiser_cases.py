"""Bugs of the optimiser, of the loop, and of two processes."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from planted_bugs.datasets import Splits, digits
from planted_bugs.modules import DigitsData, ImageModel, LitClassifier, cnn, mlp
from planted_bugs.program import Program, collection

OPTIMISER, optimiser = collection("optimiser")
LOOP, loop = collection("loop")
DISTRIBUTED, distributed = collection("distributed")


def on_digits(module: Any, seed: int, epochs: int = 4, splits: Splits | None = None, **options: Any) -> Program:
    train, held_out, test = splits or digits(seed)
    loaders = train.loader(32, True), held_out.loader(100)
    return Program(module, *loaders, test, {"max_epochs": epochs, **options})


@optimiser(
    "accuracy", "step-size optimiser-settings", (r"(learning rate|\blr\b).*(high|large|lower|reduce|beyond)", "diverg")
)
def rate_times_100(seed: int, buggy: bool) -> Program:
    return on_digits(LitClassifier(cnn(), lr=2e-1 if buggy else 2e-3), seed)


@optimiser("accuracy", "step-size optimiser-settings", (r"(learning rate|\blr\b).*(low|small|raise|increase)",))
def rate_over_1000(seed: int, buggy: bool) -> Program:
    return on_digits(ImageModel(mlp(), learning_rate=2e-5 if buggy else 2e-2), seed)


@optimiser("accuracy", "untrained-parameters", ("(missing from|not in|outside|absent from).*optimi[sz]er",))
def backbone_not_in_the_optimiser(seed: int, buggy: bool) -> Program:
    class Model(LitClassifier):
        def __init__(self) -> None:
            super().__init__(nn.Sequential(mlp(16, outputs=8), nn.Linear(8, 10)))
            self.head = self.net[1]

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.head.parameters() if buggy else self.parameters(), 3e-3)

    return on_digits(Model(), seed, epochs=6)


@optimiser("accuracy", "schedule-audit", ("schedule", "decay"))
def schedule_to_nothing(seed: int, buggy: bool) -> Program:
    class Model(ImageModel):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), 5e-3, momentum=0.9)
            scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1 if buggy else 6, gamma=0.1)
            return [optimizer], [scheduler]

    return on_digits(Model(mlp()), seed, epochs=8)


@loop("accuracy", "gradients-kept", ("zero_grad", "accumulat"))
def no_zero_grad(seed: int, buggy: bool) -> Program:
    class Model(LitClassifier):
        def __init__(self) -> None:
            super().__init__(mlp())
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            x, y = batch
            optimizer = self.optimizers()
            optimizer.zero_grad() if not buggy else None
            self.manual_backward(F.cross_entropy(self.net(x), y))
            optimizer.step()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.02, momentum=0.9)

    return on_digits(Model(), seed)


@loop("accuracy", "evaluation-mode-in-training training-in-evaluation-mode", ("eval(uation)? mode", r"\.eval\(\)"))
def training_in_eval_mode(seed: int, buggy: bool) -> Program:
    class Model(ImageModel):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            self.train(not buggy)

    layers: list[nn.Module] = [nn.Flatten(), nn.BatchNorm1d(64)]
    for _ in range(4):
        layers += [nn.Linear(64, 64, bias=False), nn.BatchNorm1d(64), nn.ReLU()]
    net = nn.Sequential(*layers, nn.Linear(64, 10))
    return on_digits(Model(net, 0.1), seed, splits=digits(seed, scale="raw"))


@loop("gap", "training-mode-in-validation validating-in-training-mode", ("train(ing)? mode", r"\.train\(\)"))
def validating_in_train_mode(seed: int, buggy: bool) -> Program:
    class Model(LitClassifier):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.net.train(buggy)
            super().validation_step(batch, batch_idx)

    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.6), nn.Linear(64, 10))
    return on_digits(Model(net), seed)


@loop("gap", "metric-of-the-last-batch", ("last batch", "single batch", "only .*batch"))
def metric_of_the_last_batch(seed: int, buggy: bool) -> Program:
    class Model(LitClassifier):
        def on_validation_epoch_start(self) -> None:
            self.hits: list[Tensor] = []

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            x, y = batch
            hits = (self.net(x).argmax(1) == y).float()
            self.hits = [hits] if buggy else [*self.hits, hits]

        def on_validation_epoch_end(self) -> None:
            self.log("val_acc", torch.cat(self.hits).mean())

    train, held_out, test = digits(seed)
    loaders = train.loader(32, True), held_out.loader(32)  # the last batch has 12 rows
    return Program(Model(mlp()), *loaders, test, {"max_epochs": 4})


@distributed(
    "accuracy",
    "distributed-sampling sampler",
    ("distributedsampler", "same (examples|rows|batches)", "overlap"),
    ranks=2,
)
def no_distributed_sampler(seed: int, buggy: bool) -> Program:
    splits = digits(seed)
    options = {"max_steps": 40, "use_distributed_sampler": not buggy}
    return Program(LitClassifier(cnn()), DigitsData(splits, 16), None, splits.test, options)


@distributed("accuracy", "replicas-differ", ("replica", "ranks? .*(differ|disagree)", "parameters differ"), ranks=2)
def replicas_differ(seed: int, buggy: bool) -> Program:
    class Model(LitClassifier):
        def on_fit_start(self) -> None:
            torch.manual_seed(seed + self.global_rank if buggy else seed)
            self.net.apply(lambda layer: layer.reset_parameters() if hasattr(layer, "reset_parameters") else None)

    splits = digits(seed)
    return Program(Model(mlp()), DigitsData(splits, 16), None, splits.test, {"max_epochs": 4})
