"""Bugs of the loop that show while it runs: of the second epoch, of a hook, of the rate's course, of two processes."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader

from planted_bugs.datasets import Splits, digits
from planted_bugs.modules import DigitsData, ImageModel, LitClassifier, cnn, mlp
from planted_bugs.program import Program, collection

OWN_LOOP, loop = collection("loop")
OWN_EVALUATION, evaluation = collection("evaluation")
OWN_DISTRIBUTED, distributed = collection("distributed")


def on_digits(module: Any, seed: int, epochs: int = 4, splits: Splits | None = None, **options: Any) -> Program:
    train, held_out, test = splits or digits(seed)
    loaders = train.loader(32, True), held_out.loader(100)
    return Program(module, *loaders, test, {"max_epochs": epochs, **options})


class ByHand(LitClassifier):
    """One optimiser, stepped by the module itself."""

    def __init__(self, net: nn.Module, lr: float = 2e-3) -> None:
        super().__init__(net, lr)
        self.automatic_optimization = False


@loop("accuracy", "training-in-evaluation-mode evaluation-mode-in-training", (r"eval(uation)? mode", r"\.eval\(\)"))
def eval_mode_from_the_second_epoch(seed: int, buggy: bool) -> Program:
    class Model(ImageModel):
        def on_train_epoch_end(self) -> None:
            self.eval()
            with torch.no_grad():
                self.log("train_acc", (self(train.x).argmax(1) == train.y).float().mean())
            self.train(not buggy)

    layers: list[nn.Module] = [nn.Flatten()]
    for _ in range(4):
        layers += [nn.Linear(64, 64, bias=False), nn.BatchNorm1d(64), nn.ReLU()]
    train, held_out, test = digits(seed, 300, scale="raw")
    loaders = train.loader(32, True), held_out.loader(100)
    return Program(Model(nn.Sequential(*layers, nn.Linear(64, 10)), 0.1), *loaders, test, {"max_epochs": 8})


@loop(
    "accuracy",
    "weights-overwritten",
    ("re-?initiali[sz]ed", "reset", "(loss|weights?).*jump", "start(s|ed)? (over|again)"),
)
def weights_drawn_anew_each_epoch(seed: int, buggy: bool) -> Program:
    class Model(ImageModel):
        def on_train_epoch_start(self) -> None:
            if buggy or self.current_epoch == 0:
                self.model.apply(lambda layer: layer.reset_parameters() if isinstance(layer, nn.Linear) else None)

    return on_digits(Model(mlp(), 0.01), seed, epochs=6)


@loop(
    "accuracy",
    "frozen-midway weights-never-move frozen-in-optimiser",
    ("froze", "stopped (moving|changing)", "no longer (move|change|train)", "never move"),
)
def frozen_after_the_first_epoch(seed: int, buggy: bool) -> Program:
    class Model(LitClassifier):
        def on_train_epoch_start(self) -> None:
            self.net[:-1].requires_grad_(self.current_epoch < (1 if buggy else 100))

    return on_digits(Model(mlp(16), 3e-3), seed, epochs=8)


@loop(
    "accuracy",
    "optimiser-replaced",
    ("optimi[sz]er.*(new|rebuilt|re-?created|state|replaced)", "momentum.*(lost|empty|zero)"),
)
def optimizer_rebuilt_each_step(seed: int, buggy: bool) -> Program:
    class Model(ImageModel):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            if buggy:
                self.trainer.optimizers = [self.configure_optimizers()]

    return on_digits(Model(mlp(), 5e-3, 0.95), seed)


@loop(
    "accuracy",
    "gradients-kept weights-never-move zero-gradients",
    (r"(zeroed|zero_grad).*(before|step)", "never move", "do(es)? not (move|change)"),
)
def gradients_zeroed_before_the_step(seed: int, buggy: bool) -> Program:
    class Model(ByHand):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(F.cross_entropy(self.net(batch[0]), batch[1]))
            optimizer.zero_grad() if buggy else None
            optimizer.step()

    return on_digits(Model(cnn()), seed)


@loop(
    "accuracy",
    "untrained-parameters weights-never-move",
    ("never (move|change|train)", "do(es)? not (move|change)", "not stepped"),
)
def body_never_stepped(seed: int, buggy: bool) -> Program:
    class Model(ByHand):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            body, head = self.optimizers()
            body.zero_grad(), head.zero_grad()
            self.manual_backward(F.cross_entropy(self.net(batch[0]), batch[1]))
            (head if buggy else body).step()
            head.step()

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.net[:-1].parameters(), 2e-3), torch.optim.Adam(self.net[-1].parameters(), 2e-3)

    return on_digits(Model(mlp(16)), seed, epochs=6)


@loop(
    "accuracy",
    "step-size updates-too-large",
    ("diverg", r"(learning rate|\blr\b).*(high|large|lower)", "accumul", "explod", "oscillat"),
)
def accumulated_without_dividing(seed: int, buggy: bool) -> Program:
    class Model(ByHand):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            loss = F.cross_entropy(self.net(batch[0]), batch[1])
            self.manual_backward(loss / (1 if buggy else 8))
            if batch_idx % 8 == 7:
                self.optimizers().step()
                self.optimizers().zero_grad()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.net.parameters(), 0.1, momentum=0.9)

    train, held_out, test = digits(seed)
    return Program(Model(mlp()), train.loader(4, True), held_out.loader(), test, {"max_epochs": 4})


@loop(
    "accuracy",
    "label-suspects",
    ("labels?.*(signal|shuffled|unrelated|chance|other|shift)", "label.*(before|previous)"),
)
def labels_of_the_batch_before(seed: int, buggy: bool) -> Program:
    class Model(LitClassifier):
        before: Any = None

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, y = batch
            used = self.before if buggy and self.before is not None else y
            self.before = y
            return F.cross_entropy(self.net(x), used)

    train, held_out, test = digits(seed, train=896)
    return Program(Model(cnn()), train.loader(32, True), held_out.loader(), test, {"max_epochs": 4})


@loop(
    "accuracy",
    "repeated-batches same-draws",
    ("same batch", "one batch", "few(er)? (batches|examples)", "overfit_batches", "seen"),
)
def overfit_batches_left_on(seed: int, buggy: bool) -> Program:
    return on_digits(ImageModel(cnn()), seed, overfit_batches=1 if buggy else 0.0)


@evaluation("gap", "wrong-metric", ("shuffl", "recomputed", "(reported|logged).*(differ|but|while)", "order"))
def predictions_against_labels_in_another_order(seed: int, buggy: bool) -> Program:
    class Model(LitClassifier):
        def on_validation_epoch_start(self) -> None:
            self.said: list[Tensor] = []

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.said.append(self.net(batch[0]).argmax(1))

        def on_validation_epoch_end(self) -> None:
            hits = torch.cat(self.said) == held_out.y[: sum(map(len, self.said))]
            self.log("val_acc", hits.float().mean())

    train, held_out, test = digits(seed)
    loaders = train.loader(32, True), held_out.loader(50, shuffle=buggy)
    return Program(Model(mlp()), *loaders, test, {"max_epochs": 4})


@evaluation("gap", "wrong-metric", ("never reset", "not reset", "recomputed", "(reported|logged).*(differ|but|while)"))
def metric_never_reset(seed: int, buggy: bool) -> Program:
    class Model(ImageModel):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.accuracy.update(self(batch[0]), batch[1])

        def on_validation_epoch_end(self) -> None:
            self.log("val_acc", self.accuracy.compute().item())
            self.accuracy.reset() if not buggy else None

    return on_digits(Model(cnn(), 0.01), seed, epochs=6)


@evaluation("gap", "no-leak no-duplicates", ("leak", "(same|share|both).*(split|validation|training)"))
def validating_on_the_training_set(seed: int, buggy: bool) -> Program:
    train, held_out, test = digits(seed, 150, 150)
    loaders = train.loader(16, True), (train if buggy else held_out).loader(64)
    return Program(LitClassifier(mlp()), *loaders, test, {"max_epochs": 15})


@evaluation("accuracy", "monitor-mode", (r"\bmode\b.*(min|max)", r"(min|max).*\bmode\b", "worst"))
def keeps_the_worst_checkpoint(seed: int, buggy: bool) -> Program:
    class Model(LitClassifier):
        def on_train_end(self) -> None:
            best = getattr(self.trainer.checkpoint_callback, "best_model_path", "")
            if best:
                self.load_state_dict(torch.load(best, weights_only=True)["state_dict"])

    keep = ModelCheckpoint(monitor="val_loss", mode="max" if buggy else "min")
    return on_digits(Model(mlp(), 1e-3), seed, callbacks=[keep], enable_checkpointing=True)


@evaluation("accuracy", "monitor-mode", (r"\bmode\b.*(min|max)", r"(min|max).*\bmode\b", "stop(s|ped)? (too )?early"))
def stops_at_the_first_progress(seed: int, buggy: bool) -> Program:
    stop = EarlyStopping("val_acc", patience=1, mode="min" if buggy else "max")
    return on_digits(ImageModel(mlp(), 0.005), seed, epochs=8, callbacks=[stop])


@distributed("accuracy", "replicas-differ", ("replica", "ranks? .*(differ|disagree|synchron)", "drift"), ranks=2)
def gradients_not_synchronised(seed: int, buggy: bool) -> Program:
    class Model(LitClassifier):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            self.trainer.model.require_backward_grad_sync = not buggy

    splits = digits(seed, train=300)
    return Program(Model(cnn()), DigitsData(splits, 16), None, splits.test, {"max_epochs": 6})


@distributed("accuracy", "replicas-differ", ("replica", "ranks? .*(differ|disagree|batches)", "drift"), ranks=2)
def one_rank_forgets_its_rate(seed: int, buggy: bool) -> Program:
    class Model(ImageModel):
        def on_train_epoch_start(self) -> None:
            share = 0.0 if buggy and self.global_rank == 0 else 1.0
            self.trainer.optimizers[0].param_groups[0]["lr"] = 0.02 * share

    splits = digits(seed)
    return Program(Model(mlp()), DigitsData(splits, 16), None, splits.test, {"max_epochs": 3})


@loop(
    "accuracy",
    "label-suspects",
    ("labels?.*(signal|shuffled|unrelated|chance|shift)", "labels?.*(epoch|change)", "reload"),
)
def labels_left_behind_by_a_shuffle(seed: int, buggy: bool) -> Program:
    class Data(DigitsData):
        def train_dataloader(self) -> DataLoader:
            if self.trainer.current_epoch > 0:
                x, y = self.splits.train
                order = torch.randperm(len(x))
                self.splits = self.splits._replace(train=type(self.splits.train)(x[order], y if buggy else y[order]))
            return super().train_dataloader()

    splits = digits(seed)
    options = {"max_epochs": 4, "reload_dataloaders_every_n_epochs": 1}
    return Program(LitClassifier(mlp()), Data(splits), None, splits.test, options)
