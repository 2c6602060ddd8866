"""Networks and modules that random healthy programs are put together from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import lightning as L
import timm.optim
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import lr_scheduler
from torchmetrics import MeanMetric
from torchmetrics.classification import BinaryAccuracy, MulticlassAccuracy

if TYPE_CHECKING:
    from planted_bugs.random_healthy import Recipe

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
    "silu": nn.SiLU,
    "elu": nn.ELU,
    "leaky": nn.LeakyReLU,
}


def network(recipe: Recipe, shape: tuple[int, ...], outputs: int) -> nn.Module:
    """The recipe's network from one example's shape to so many outputs."""
    family = {"mlp": _mlp, "residual": _residual, "cnn": _cnn, "rnn": Recurrent, "transformer": Transformer}
    net: nn.Module = family[recipe.family](recipe, shape, outputs)
    head = [layer for layer in net.modules() if isinstance(layer, nn.Linear)][-1]
    if recipe.start == "zero head":
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
    if recipe.start == "kaiming":
        for layer in net.modules():
            if isinstance(layer, (nn.Linear, nn.Conv2d)) and layer is not head:
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return net


def _norm(recipe: Recipe, width: int) -> list[nn.Module]:
    norms = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm}
    return [norms[recipe.norm](width)] if recipe.norm in norms else []


def _mlp(recipe: Recipe, shape: tuple[int, ...], outputs: int) -> nn.Module:
    width, inputs = recipe.width, int(torch.tensor(shape).prod())
    layers: list[nn.Module] = [nn.Flatten()]
    for index in range(recipe.depth):
        layers += [
            nn.Linear(width if index else inputs, width),
            *_norm(recipe, width),
            ACTIVATIONS[recipe.activation](),
        ]
        layers += [nn.Dropout(recipe.dropout)] if recipe.dropout else []
    return nn.Sequential(*layers, nn.Linear(width, outputs))


class Residual(nn.Module):
    """Adds what a branch makes of its input to the input."""

    def __init__(self, *branch: nn.Module) -> None:
        super().__init__()
        self.branch = nn.Sequential(*branch)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


def _residual(recipe: Recipe, shape: tuple[int, ...], outputs: int) -> nn.Module:
    width, activation = recipe.width, ACTIVATIONS[recipe.activation]
    if recipe.image:
        stem: list[nn.Module] = [nn.Conv2d(1, width // 4, 3, padding=1), nn.MaxPool2d(2)]
        block = [
            Residual(*_conv(recipe, width // 4, width // 4), nn.Conv2d(width // 4, width // 4, 3, padding=1))
            for _ in range(recipe.depth)
        ]
        return nn.Sequential(*stem, *block, activation(), nn.Flatten(), nn.Linear(width // 4 * 16, outputs))
    stem = [nn.Flatten(), nn.Linear(int(torch.tensor(shape).prod()), width)]
    block = [
        Residual(*_norm(recipe, width), nn.Linear(width, width), activation(), nn.Linear(width, width))
        for _ in range(recipe.depth)
    ]
    return nn.Sequential(*stem, *block, nn.LayerNorm(width), nn.Linear(width, outputs))


def _conv(recipe: Recipe, inputs: int, outputs: int) -> list[nn.Module]:
    norm = {"batch": [nn.BatchNorm2d(outputs)], "layer": [nn.GroupNorm(2, outputs)], "none": []}[recipe.norm]
    return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=not norm), *norm, ACTIVATIONS[recipe.activation]()]


def _cnn(recipe: Recipe, shape: tuple[int, ...], outputs: int) -> nn.Module:
    width = recipe.width // 4
    layers: list[nn.Module] = [*_conv(recipe, 1, width), nn.MaxPool2d(2)]
    for _ in range(recipe.depth - 1):
        layers += _conv(recipe, width, width)
    layers += [*_conv(recipe, width, 2 * width), nn.Flatten(), nn.Dropout(recipe.dropout)]
    return nn.Sequential(*layers, nn.Linear(2 * width * 16, outputs))


class Recurrent(nn.Module):
    """An LSTM or a GRU over the rows of an image, read at its end or as a mean."""

    def __init__(self, recipe: Recipe, shape: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        kind = nn.LSTM if recipe.activation in ("relu", "tanh", "elu") else nn.GRU
        self.reader = kind(shape[-1], recipe.width, batch_first=True)
        self.head, self.mean = nn.Linear(recipe.width, outputs), recipe.norm == "layer"

    def forward(self, images: Tensor) -> Tensor:
        out, _ = self.reader(images.squeeze(1))
        return self.head(out.mean(1) if self.mean else out[:, -1])


class Transformer(nn.Module):
    """Over the rows of an image: before the norm or after, read as a mean."""

    def __init__(self, recipe: Recipe, shape: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        width = recipe.width // 2
        self.embed, self.position = nn.Linear(shape[-1], width), nn.Parameter(0.02 * torch.randn(1, shape[-2], width))
        layer = nn.TransformerEncoderLayer(
            width, 4, recipe.width, recipe.dropout, "gelu", batch_first=True, norm_first=recipe.norm != "batch"
        )
        self.encoder = nn.TransformerEncoder(layer, min(recipe.depth, 2), enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, outputs)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.norm(self.encoder(self.embed(images.squeeze(1)) + self.position)).mean(1))


class Drawn(L.LightningModule):
    """Trains by a recipe.

    Args:
        recipe: What was drawn.
        net: The network.
        classes: How many; 1 for one logit, 0 for a number.
        weight: Of the classes in the loss, or None.
    """

    def __init__(self, recipe: Recipe, net: nn.Module, classes: int, weight: Tensor | None) -> None:
        super().__init__()
        self.recipe, self.net, self.classes = recipe, net, classes
        self.criterion = nn.CrossEntropyLoss(weight=weight, label_smoothing=recipe.smoothing)
        self.metric = MeanMetric() if classes == 0 else BinaryAccuracy()
        if classes > 1:
            self.metric = MulticlassAccuracy(classes, average="micro")
        self.automatic_optimization = not recipe.manual

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def loss(self, out: Tensor, y: Tensor) -> Tensor:
        if self.classes > 1:
            return self.criterion(out, y)
        if self.classes == 1:
            return F.binary_cross_entropy_with_logits(out.squeeze(1), y)
        return (F.huber_loss if self.recipe.smoothing else F.mse_loss)(out.squeeze(1), y)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        x, y = batch
        x = x + self.recipe.noise * torch.randn_like(x) if self.recipe.noise else x
        loss = self.loss(self(x), y)
        self.log("train_loss", loss)
        if not self.recipe.manual:
            return loss
        optimizer, schedule = self.optimizers(), self.lr_schedulers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        if self.recipe.clip:
            self.clip_gradients(optimizer, self.recipe.clip, "norm")
        optimizer.step()
        if schedule:
            schedule.step()
        return None

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        out = self(x)
        self.log("val_loss", self.loss(out, y))
        if self.recipe.torchmetrics:
            self.metric(*((self.loss(out, y),) if self.classes == 0 else (out.squeeze(1), y.long())))
            self.log("val_score", self.metric)
        elif self.classes > 1:
            self.log("val_acc", (out.argmax(1) == y).float().mean())

    def configure_optimizers(self) -> Any:
        recipe = self.recipe
        optimizer = optimizer_of(recipe, self.parameters())
        schedule = schedule_of(recipe, optimizer, int(self.trainer.estimated_stepping_batches))
        if schedule is None:
            return optimizer
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


def optimizer_of(recipe: Recipe, parameters: Any) -> torch.optim.Optimizer:
    """Torch's where torch has it, else timm's."""
    rate, decay = recipe.rate, recipe.decay
    if recipe.optimiser in ("sgd", "momentum", "nesterov"):
        momentum = 0.0 if recipe.optimiser == "sgd" else 0.9
        return torch.optim.SGD(parameters, rate, momentum, weight_decay=decay, nesterov=recipe.optimiser == "nesterov")
    own = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "rmsprop": torch.optim.RMSprop}
    own |= {"nadam": torch.optim.NAdam, "radam": torch.optim.RAdam}
    if recipe.optimiser in own:
        return own[recipe.optimiser](parameters, lr=rate, weight_decay=decay)
    return timm.optim.create_optimizer_v2(list(parameters), opt=recipe.optimiser, lr=rate, weight_decay=decay)


def schedule_of(recipe: Recipe, optimizer: torch.optim.Optimizer, steps: int) -> Any:
    """A schedule that is stepped each step; None for a constant rate."""
    warm_up = max(1, steps // 10)
    cosine = {"cosine": (steps, 0), "warm-up cosine": (steps - warm_up, warm_up)}.get(recipe.schedule)
    warm = (
        lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / warm_up))
        if "warm" in recipe.schedule
        else None
    )
    if cosine:
        falling = lr_scheduler.CosineAnnealingLR(optimizer, max(1, cosine[0]))
        return lr_scheduler.SequentialLR(optimizer, [warm, falling], [warm_up]) if warm else falling
    if recipe.schedule == "step":
        return lr_scheduler.MultiStepLR(optimizer, [steps * 3 // 5, steps * 17 // 20], gamma=0.2)
    if recipe.schedule == "one cycle":
        momentum = recipe.optimiser not in ("sgd", "rmsprop")
        return lr_scheduler.OneCycleLR(optimizer, recipe.rate, total_steps=steps, cycle_momentum=momentum)
    return warm
