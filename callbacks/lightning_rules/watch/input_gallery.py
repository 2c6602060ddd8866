"""The rule input-gallery."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_rules.answers import main_input
from lightning_rules.batches import split_batch
from lightning_rules.class_names import class_names, name_of
from lightning_rules.exhibit import Exhibit, Picture, Section
from lightning_rules.figures import INK, draw_example, new_figure, plain, save, small
from lightning_rules.log_to import log_figure
from lightning_rules.monitor import Finding, Monitor, NotApplicable, Sample, Severity, View
from lightning_rules.watch.normalisation import for_the_eye, normalisation_of

NAME = "input-gallery"
FIGURE = "input_gallery"
EXAMPLES = 16
COLUMNS = 4


@dataclass(frozen=True)
class Gallery:
    """What entered the network in the first batch.

    Attributes:
        inputs: Of at most 16 examples, on the host; None where one of them is too large to be kept.
        targets: Theirs; None where the batch has none.
        shape: Of the whole batch.
        dtype: Of the inputs.
        lowest: Least value.
        highest: Largest value.
        mean: Mean value.
        std: Standard deviation of the values.
        strange: Share of the values that are not finite.
    """

    inputs: Tensor | None
    targets: Tensor | None
    shape: tuple[int, ...]
    dtype: str
    lowest: float
    highest: float
    mean: float
    std: float
    strange: float


class InputGallery(Monitor):
    """A person looks at what enters the network, right before it, with the labels.

    Why: Between the files and the network stand decoding, cropping, augmentation, normalisation, collation and the way
        to the device, and a fault in any of them shows at a glance where the first layer takes over: swapped channels,
        images on their side, labels of other examples, an augmentation that leaves nothing to see. What a data set
        shows by itself is not what the network gets.

    What it does: Keeps the main input of the first training batch exactly as ``training_step`` gets it on the device,
        at most 16 examples, with the targets and the names of their classes, and draws them to
        ``<log_dir>/rules/input_gallery.png`` and to the loggers that take pictures, once a fit: images de-normalised
        with the mean and std of the data module or of its transform where these are known and lead back to 0 ... 1,
        else stretched from the least to the largest value (the figure says which); curves, bars, heat maps and
        tokens for the rest. The tensors stay in ``gallery``.

    Fires when: Never an alarm. At the end of the fit one line of information tells shape, type and range.

    Under DDP: Rank 0's batch is shown.

    Cost: A copy of 16 examples and five reductions on the first batch; a second, once, for the picture
        when the numbers have come to the host (after 16 batches or more).

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[InputGallery()], logger=False)

    Source: Karpathy (2019), "A Recipe for Training Neural Networks", step 2, "visualize just before the net".

    Args:
        overhead: Share of the training time that all monitors may take together, above 0 and below 1.
        on_error: ``"warn"`` or ``"raise"``; see :class:`~lightning_rules.Rule`.
    """

    name = NAME
    source = 'Karpathy (2019), "A Recipe for Training Neural Networks", step 2, "visualize just before the net"'
    kind = "report"

    def __init__(self, overhead: float = 0.03, on_error: Literal["warn", "raise"] = "warn") -> None:
        super().__init__(overhead, on_error)

    def _forget(self) -> None:
        super()._forget()
        self.gallery: Gallery | None = None
        self.names: list[str] = []
        self.normalisation: tuple[list[float], list[float]] | None = None
        self._seen: dict[str, Any] | None = None
        self._done = False
        self._drawn = False
        self._saved = False

    def start(self, view: View) -> None:
        """Ask the data for the names of its classes and for how it was normalised."""
        datamodule, loader = getattr(view.trainer, "datamodule", None), view.trainer.train_dataloader
        self.names = class_names(view.trainer, loader)
        self.normalisation = normalisation_of(datamodule, getattr(loader, "dataset", None))

    def before(self, sample: Sample) -> None:
        """Keep the first batch that is sampled."""
        if self._done:
            return
        self._done = True
        inputs = main_input(sample.batch, sample.module)
        if inputs is None or not inputs.numel() or inputs.layout is not torch.strided:
            raise NotApplicable("no tensor is found that enters the network.")
        values = inputs.float() if inputs.is_floating_point() else inputs.to(torch.float64)
        finite = values.isfinite()
        known = torch.where(finite, values, 0)
        count = finite.sum().clamp(min=1)
        mean = known.sum() / count
        lowest = torch.where(finite, values, torch.inf).amin()
        highest = torch.where(finite, values, -torch.inf).amax()
        variance = torch.where(finite, (values - mean) ** 2, 0).sum() / count
        kept = small(inputs[:EXAMPLES])
        targets = split_batch(sample.batch, sample.module)[1]
        fits = isinstance(targets, Tensor) and targets.dim() > 0 and len(targets) == len(inputs)
        self._seen = {
            "inputs": None if kept is None else kept.clone(),
            "targets": targets[:EXAMPLES].detach().clone() if fits else None,
            "numbers": torch.stack([lowest, highest, mean, variance.sqrt(), 1 - finite.float().mean()]),
            "shape": tuple(inputs.shape),
            "dtype": str(inputs.dtype).removeprefix("torch."),
        }

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Draw, once, when the numbers have come to the host: a second that no step waits for."""
        if self._active and self.gallery is not None and not self._drawn:
            self._guarded(self._draw, trainer)

    def readings(self) -> Any:
        """What was kept, handed over once."""
        seen, self._seen = self._seen, None
        return seen

    def take(self, readings: Any) -> dict[str, Any] | None:
        """The numbers of this rank's batch."""
        if readings is not None:
            numbers = readings.pop("numbers").tolist()
            self.gallery = Gallery(
                **readings, **dict(zip(("lowest", "highest", "mean", "std", "strange"), numbers, strict=True))
            )
        one = self.gallery
        names = ("shape", "dtype", "lowest", "highest", "mean", "std", "strange")
        return None if one is None else {name: getattr(one, name) for name in names}

    def judge(self, ranks: Sequence[dict[str, Any] | None]) -> Iterable[Finding]:
        """One line of information."""
        return judge_inputs(ranks[0])

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Look for the last time, and draw if the fit was that short."""
        super().on_train_end(trainer, pl_module)
        if self._active and self.gallery is not None and not self._drawn:
            self._guarded(self._draw, trainer)

    def exhibits(self) -> list[Exhibit]:
        """The figure, when it has been drawn."""
        if not self._saved:
            return []
        title = "What enters the network"
        caption = "The first training batch as the network gets it, with its targets: is it what you would expect?"
        return [Exhibit(FIGURE, Section.DATA, title, caption, Picture(f"{FIGURE}.png", title), [NAME])]

    def _draw(self, trainer: Any) -> None:
        self._drawn = True
        if self.gallery is not None and self.gallery.inputs is not None and trainer.is_global_zero:
            figure = draw_gallery(self.gallery, self.names, self.normalisation)
            self._saved = save(figure, self._folder, FIGURE) is not None
            log_figure(trainer, FIGURE, figure)

    def _release(self) -> None:
        super()._release()
        self._seen = None


def judge_inputs(seen: dict[str, Any] | None) -> list[Finding]:
    """Shape, type and range of what enters the network, in one sentence."""
    if seen is None:
        return []
    shape = " × ".join(str(side) for side in seen["shape"])
    message = (
        f"A batch of {shape} values of type {seen['dtype']} enters the network, from {seen['lowest']:.3g} to "
        f"{seen['highest']:.3g} with a mean of {seen['mean']:.3g} and a standard deviation of {seen['std']:.3g}"
    )
    message += f"; {seen['strange']:.2%} of them are not finite." if seen["strange"] > 0 else "."
    evidence = {name: value for name, value in seen.items() if name != "shape"}
    return [Finding(NAME, Severity.INFO, message, evidence={"shape": shape, **evidence})]


def draw_gallery(gallery: Gallery, names: Sequence[str], normalisation: tuple[list[float], list[float]] | None) -> Any:
    """Draw the examples, each with its target.

    Args:
        gallery: With inputs.
        names: Of the classes, as far as they are known.
        normalisation: Mean and std a channel of images; None where they are not known.

    Returns:
        The figure.
    """
    assert gallery.inputs is not None
    inputs, scaled, done = gallery.inputs, True, ""
    if inputs.dim() == 4 and inputs.shape[1] in (1, 3):
        inputs, said = for_the_eye(inputs, normalisation)
        scaled, done = False, f"\nimages {said}"
    shape = " × ".join(str(side) for side in gallery.shape)
    title = f"What enters the network: {shape}, {gallery.dtype}, {gallery.lowest:.3g} ... {gallery.highest:.3g}"
    rows = -(-len(inputs) // COLUMNS)
    figure = new_figure(8, 1.75 * rows + 0.6, title + done)
    for place, axes in enumerate(figure.subplots(rows, COLUMNS, squeeze=False).flat):
        if place >= len(inputs):
            axes.set_axis_off()
            continue
        draw_example(axes, inputs[place], scaled)
        if gallery.targets is not None:
            axes.set_title(plain(said_of(gallery.targets[place], list(names))), fontsize=8, color=INK)
    return figure


def said_of(target: Tensor, names: list[str]) -> str:
    """A target in a few words: the class and its name, a value, or the shape of what is more than that."""
    if target.numel() == 1:
        value = target.item()
        if target.is_floating_point():
            return f"{value:.4g}"
        name = name_of(names, int(value)) if 0 <= value < len(names) else f"{value}"
        return name if name == f"{value}" else f"{value}: {name}"
    if target.dim() == 1 and len(target) <= 4:
        return ", ".join(f"{value:.3g}" for value in target.tolist())
    if target.dim() == 1 and bool(((target == 0) | (target == 1)).all()):
        there = [name_of(names, place) for place in target.nonzero().flatten().tolist()]
        return ", ".join(there[:3]) + (" …" if len(there) > 3 else "") if there else "none"
    if target.dim() == 1 and not target.is_floating_point():
        return " ".join(str(value) for value in target[:6].tolist()) + " …"
    return f"target of {' × '.join(str(side) for side in target.shape)}"
