"""Networks and modules of the healthy runs."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from planted_bugs.modules import LitClassifier, cnn


def deep_mlp(depth: int = 8, width: int = 64) -> nn.Sequential:
    """Hidden layers with batch norm."""
    layers: list[nn.Module] = [nn.Flatten()]
    for index in range(depth):
        layers += [nn.Linear(width if index else 64, width, bias=False), nn.BatchNorm1d(width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, 10))


def normed_cnn() -> nn.Sequential:
    """Two convolutions with batch norm and a global mean."""
    first = [nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)]
    second = [nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU()]
    return nn.Sequential(*first, *second, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


def tanh_mlp() -> nn.Sequential:
    hidden = [nn.Linear(64, 48), nn.Tanh(), nn.Linear(48, 48), nn.Tanh()]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(48, 10))


def gelu_mlp() -> nn.Sequential:
    first = [nn.Linear(64, 96), nn.LayerNorm(96), nn.GELU(), nn.Dropout(0.3)]
    return nn.Sequential(nn.Flatten(), *first, nn.Linear(96, 96), nn.GELU(), nn.Dropout(0.3), nn.Linear(96, 10))


class ZeroBranches(nn.Module):
    """Residual blocks whose last layer starts at zero."""

    def __init__(self, blocks: int = 3, width: int = 64) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
            for _ in range(blocks)
        )
        for block in self.blocks:
            nn.init.zeros_(block[-1].weight)
            nn.init.zeros_(block[-1].bias)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


class RowTransformer(nn.Module):
    """A pre-norm transformer over the rows of an image."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.embed = nn.Linear(8, width)
        self.position = nn.Parameter(torch.randn(1, 8, width) * 0.02)
        layer = nn.TransformerEncoderLayer(width, 4, 64, dropout=0.1, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.encoder(self.embed(images.squeeze(1)) + self.position)
        return self.head(self.norm(tokens).mean(1))


class WarmedUp(LitClassifier):
    """Adam with a linear warm-up of 30 steps."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr)
        warm_up = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 30))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": warm_up, "interval": "step"}}


class Annealed(LitClassifier):
    """AdamW, cosine to zero."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr, weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=self.trainer.max_epochs)
        return [optimizer], [schedule]


class Smoothed(LitClassifier):
    """Label smoothing, and noise on the training inputs."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        return F.cross_entropy(self.net(x + 0.3 * torch.randn_like(x)), y, label_smoothing=0.1)


class HeadOnly(L.LightningModule):
    """A frozen backbone, trained on the odd labels before, and a head that is trained."""

    def __init__(self, backbone: nn.Module, features: int) -> None:
        super().__init__()
        self.backbone = backbone.requires_grad_(False)
        self.head = nn.Linear(features, 10)

    def forward(self, x: Tensor) -> Tensor:
        self.backbone.eval()
        with torch.no_grad():
            features = self.backbone(x)
        return self.head(features)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_acc", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.head.parameters(), 1e-2)


def pretrained_backbone(x: Tensor, y: Tensor) -> nn.Module:
    """A small network without its last layer, after 100 steps on all rows."""
    net = cnn()
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for rows in torch.randint(len(x), (100, 64)):
        optimizer.zero_grad()
        F.cross_entropy(net(x[rows]), y[rows]).backward()
        optimizer.step()
    return net[:-1]


class AutoEncoder(L.LightningModule):
    """Draws its input again; mean squared error; labels are not used."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 12))
        self.decoder = nn.Sequential(nn.Linear(12, 48), nn.ReLU(), nn.Linear(48, 64), nn.Unflatten(1, (1, 8, 8)))

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, _ = batch
        return F.mse_loss(self(x), x)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, _ = batch
        self.log("val_loss", F.mse_loss(self(x), x))

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 2e-3)


class Weighted(LitClassifier):
    """Cross-entropy with the inverse frequencies as weights."""

    def __init__(self, net: nn.Module, counts: Tensor) -> None:
        super().__init__(net)
        self.loss = nn.CrossEntropyLoss(weight=counts.sum() / (len(counts) * counts))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        return self.loss(self.net(x), y)


class TwoOptimizers(LitClassifier):
    """By hand: one optimiser for the body, one for the head."""

    def __init__(self, net: nn.Sequential) -> None:
        super().__init__(net)
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        loss = F.cross_entropy(self.net(x), y)
        body, head = self.optimizers()
        body.zero_grad()
        head.zero_grad()
        self.manual_backward(loss)
        body.step()
        head.step()
        self.log("train_loss", loss)

    def configure_optimizers(self) -> Any:
        body = torch.optim.Adam(self.net[:-1].parameters(), 2e-3)
        return body, torch.optim.SGD(self.net[-1].parameters(), 0.05)
