"""Bugs of rates, schedules, clipping, decay, averaging and numerics that show while a run goes on."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import ExponentialLR, LambdaLR, StepLR
from torchvision.transforms import v2

from planted_bugs.modules import ImageModel, LitClassifier, cnn, mlp
from planted_bugs.own_loop_cases import on_digits
from planted_bugs.program import Program, collection

OWN_OPTIMISER, optimiser = collection("optimiser")
OWN_NUMERICS, numerics = collection("numerics")

TOO_HIGH = (r"(learning rate|\blr\b).*(high|large|lower|grow|rise|beyond)", "diverg", "schedule")


@optimiser("accuracy", "schedule-audit updates-too-large", TOO_HIGH)
def rate_grows_each_step(seed: int, buggy: bool) -> Program:
    class Model(LitClassifier):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.Adam(self.parameters(), 1e-3)
            schedule = ExponentialLR(optimizer, gamma=1.1 if buggy else 0.99)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    return on_digits(Model(cnn()), seed)


@optimiser("accuracy", "schedule-audit rate-ends-early", ("schedule", "decay"))
def schedule_of_epochs_stepped_by_batch(seed: int, buggy: bool) -> Program:
    class Model(ImageModel):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), 0.02, momentum=0.9)
            schedule = StepLR(optimizer, step_size=3, gamma=0.1)
            return [optimizer], [{"scheduler": schedule, "interval": "step" if buggy else "epoch"}]

    return on_digits(Model(cnn()), seed, epochs=5)


@optimiser("accuracy", "schedule-audit updates-too-large dying-units", (*TOO_HIGH, r"\bdead\b", "warm-?up"))
def warm_up_upside_down(seed: int, buggy: bool) -> Program:
    class Model(ImageModel):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), 0.05, momentum=0.9)
            factor = (lambda step: 300 / (step + 1)) if buggy else (lambda step: (step + 1) / 60)
            schedule = LambdaLR(optimizer, lambda step: factor(step) if step < 60 else 1.0)
            return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    return on_digits(Model(mlp()), seed)


@optimiser("accuracy", "updates-too-large dying-units", (r"\bdead\b", "never (active|fire)", *TOO_HIGH, "spike"))
def one_huge_step(seed: int, buggy: bool) -> Program:
    class Model(LitClassifier):
        def on_before_optimizer_step(self, optimizer: Any) -> None:
            optimizer.param_groups[0]["lr"] = 2.0 if buggy and self.global_step == 5 else 2e-3

    return on_digits(Model(mlp()), seed)


@optimiser(
    "accuracy",
    "optimiser-settings step-size",
    ("momentum", "oscillat", "diverg", r"(learning rate|\blr\b).*(high|large|lower)"),
)
def momentum_of_one(seed: int, buggy: bool) -> Program:
    return on_digits(ImageModel(cnn(), 0.02, momentum=1.0 if buggy else 0.9), seed)


@optimiser("accuracy", "gradient-clipping always-clipped", (r"\bclip", "threshold"))
def clipped_to_nothing(seed: int, buggy: bool) -> Program:
    return on_digits(ImageModel(mlp()), seed, gradient_clip_val=1e-4 if buggy else 1.0)


@optimiser("accuracy", "optimiser-settings", ("weight decay", "weight_decay"))
def weight_decay_ten_times(seed: int, buggy: bool) -> Program:
    class Model(LitClassifier):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.05, momentum=0.9, weight_decay=0.1 if buggy else 0.01)

    return on_digits(Model(mlp()), seed, epochs=6)


@optimiser(
    "accuracy",
    "untrained-parameters weights-never-move",
    (r"(learning rate|\blr\b).*\b(0|zero)\b", "never (move|change|train)"),
)
def a_group_at_rate_zero(seed: int, buggy: bool) -> Program:
    class Model(LitClassifier):
        def configure_optimizers(self) -> Any:
            body = {"params": self.net[:-1].parameters(), "lr": 0.0 if buggy else 1e-3}
            return torch.optim.Adam([body, {"params": self.net[-1].parameters()}], 3e-3)

    return on_digits(Model(mlp(16)), seed, epochs=8)


class Averaged(LitClassifier):
    """Evaluates a running average of its weights."""

    decay = 0.9

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self.average = copy.deepcopy(net).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return (self.net if self.training else self.average)(x)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        for slow, fast in zip(self.average.parameters(), self.net.parameters(), strict=True):
            slow.lerp_(fast.detach(), 1 - self.decay)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        logits = self(batch[0])
        self.log("val_loss", F.cross_entropy(logits, batch[1]))
        self.log("val_acc", (logits.argmax(1) == batch[1]).float().mean())


@optimiser("accuracy", "", ("average", r"\bema\b", "validation.*(chance|no better|does not|stands still|progress)"))
def average_that_never_follows(seed: int, buggy: bool) -> Program:
    model = Averaged(mlp())
    model.decay = 0.9999 if buggy else 0.9
    return on_digits(model, seed)


@optimiser(
    "accuracy",
    "weights-overwritten updates-too-small",
    ("average", r"\bema\b", "overwrit", "(update|step)s?.*(small|undone)", "outside"),
)
def average_written_back_each_step(seed: int, buggy: bool) -> Program:
    class Model(Averaged):
        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            super().on_train_batch_end(outputs, batch, batch_idx)
            if buggy or self.global_step == self.trainer.estimated_stepping_batches:
                self.net.load_state_dict(self.average.state_dict())

    model = Model(cnn())
    model.decay = 0.98
    return on_digits(model, seed)


@optimiser(
    "accuracy", "warm-up-repeats schedule-audit", ("warm-?up", r"(learning rate|\blr\b).*(low|small)", "schedule")
)
def warm_up_counts_batches_of_the_epoch(seed: int, buggy: bool) -> Program:
    class Model(ImageModel):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            done = batch_idx if buggy else self.global_step
            self.trainer.optimizers[0].param_groups[0]["lr"] = 0.02 * min(1.0, (done + 1) / 100) ** 2

    return on_digits(Model(mlp()), seed, epochs=6)


@numerics(
    "accuracy",
    "non-finite-loss non-finite-gradients non-finite-activations",
    (r"\bnan\b", "not finite", "non-finite", "infinite", "overflow"),
)
def exponential_overflows(seed: int, buggy: bool) -> Program:
    class Model(LitClassifier):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            logits = self.net(batch[0])
            top = 0.0 if buggy else logits.amax(1, keepdim=True).detach()
            raised = (logits - top).half().exp().float()  # 65,504 is the largest number: of logits above 11
            shares = raised / raised.sum(1, keepdim=True)
            return -shares.gather(1, batch[1][:, None]).clamp(min=1e-7).log().mean()

    return on_digits(Model(mlp(), 1e-2), seed, epochs=6)


@numerics(
    "accuracy",
    "non-finite-loss non-finite-gradients non-finite-activations",
    (r"\bnan\b", "not finite", "non-finite", "infinite"),
)
def one_blank_crop(seed: int, buggy: bool) -> Program:
    class Model(LitClassifier):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, y = batch
            patch = self.crop(x)
            contrast = patch.std((1, 2, 3), keepdim=True).clamp(min=0.0 if buggy else 0.3)
            return F.cross_entropy(self.net(x + 0.1 * ((patch - patch.mean()) / contrast).mean((1, 2, 3), True)), y)

    model = Model(cnn())
    model.crop = v2.RandomCrop(4)  # one of 1,800 is blank
    return on_digits(model, seed, epochs=6)
