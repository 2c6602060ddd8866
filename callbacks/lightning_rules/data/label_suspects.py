"""The rule label-suspects."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from lightning_rules.data import label_signal
from lightning_rules.data.confident_learning import Suspect, Suspects, judge_suspects, suspects_among
from lightning_rules.data.data_seen import DataSeen, SplitSample
from lightning_rules.data.label_pictures import draw
from lightning_rules.data.label_signal import NAME, Signal
from lightning_rules.data.probe_targets import labels_from
from lightning_rules.exhibit import Exhibit, Listing, Section
from lightning_rules.preflight_check import Deadline, Finding, NotApplicable, PreflightCheck, View

TRAINING = 2000  # examples that are probed, at most
VALIDATION = 1000
FILE = "rules/label-suspects.png"


@dataclass(frozen=True)
class LabelsSeen:
    """What one rank saw of the labels.

    Attributes:
        signal: What probes know of both splits.
        suspects: Training labels that look wrong; None where the probe knows too little to say.
    """

    signal: Signal
    suspects: Suspects | None


class LabelSuspects(PreflightCheck):
    """Labels belong to their inputs: probes find them, and single ones that look wrong are listed.

    Why: A network trains on shuffled or shifted labels without complaint: the loss falls to the entropy of the labels,
        and no statistic of tensors shows why it stays there. Random label errors are tolerable, systematic ones are
        not, and of either kind a person should have seen some before days of training.

    What it does: Reads up to 2,000 training and 1,000 validation examples and asks quick probes (nearest neighbours,
        ridge regression on the inputs, on random features, and on small patterns found anywhere in an image or
        signal) for labels that they were not fitted to. The evidence is compared with all ways of dealing the labels
        out at random. Then a probe of the training split reads the validation split. Confident learning (cleanlab)
        names single labels that the probe contradicts; they are listed, and shown in ``rules/label-suspects.png`` of
        the log folder where the inputs are images.

    Fires when: One split's labels say nothing about its inputs while the other's do (error). Neither says anything,
        although the inputs form clusters closer than 87% of noise of the same covariance and there are examples enough
        for a gain of 15% (20% for more than two classes) to be seen (error); without clusters that is how a hard task
        looks too, and for information. Two classes or more of validation look like other classes of training, one to
        one (error). A probe is right for validation but disagrees with training labels left out, by 15 points at least
        (warning). Single suspects are for information, always.

    Under DDP: Each rank reads the same examples; rank 0's numbers are judged, the same everywhere, and it draws the
        picture.

    Cost: On digits 0.4 to 1 s on one core, and 1 to 3 s once to import cleanlab; up to 2 s a split to read
        examples that are dear to read. No trace is left.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[LabelSuspects(seconds=5)], logger=False)

    Source: Northcutt, Jiang, Chuang (2021), "Confident Learning: Estimating Uncertainty in Dataset Labels", section 3.
        Ng (2018), "Machine Learning Yearning", chapters 14 to 16: look at mislabelled examples.

    Args:
        seconds: How long it may take, within ``budget``.
        budget: Seconds that the pre-flight checks of a run may take together; None for no limit.
        on_error: ``"warn"`` or ``"raise"``; see :class:`~lightning_rules.Rule`.

    Raises:
        ValueError: ``seconds`` or ``budget`` is not positive.
    """

    name = NAME
    source = (
        'Northcutt, Jiang, Chuang (2021), "Confident Learning: Estimating Uncertainty in Dataset Labels", section 3'
    )

    def __init__(
        self, seconds: float = 10, budget: float | None = 10.0, on_error: Literal["warn", "raise"] = "warn"
    ) -> None:
        super().__init__(budget, on_error)
        if not seconds > 0:
            raise ValueError(f"Expected `seconds` to be positive, but got {seconds!r}.")
        self.seconds = seconds
        self._shown: list[tuple[Suspect, Tensor]] = []
        self._listed: list[Suspect] = []

    def exhibits(self) -> list[Exhibit]:
        """The labels that look wrong."""
        if not self._listed:
            return []
        rows = [[str(one.index), one.given, one.suggested, f"{one.confidence:.1%}"] for one in self._listed]
        table = Listing(["example", "label", "looks like", "probability of its label"], rows)
        caption = "Training examples whose label a simple probe contradicts, the most suspect first: look at them."
        return [Exhibit("label_suspects", Section.DATA, "Labels that look wrong", caption, table, [NAME])]

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Measure, judge, and draw the suspects on rank 0."""
        super().on_train_start(trainer, pl_module)
        shown, self._shown = self._shown, []
        if shown and trainer.is_global_zero and self._folder is not None and "://" not in self._folder:
            with suppress(OSError):  # a picture is not worth the run
                draw(shown, Path(self._folder, FILE))

    def measure(self, view: View, deadline: Deadline) -> LabelsSeen:
        """Probe both splits; see :func:`label_signal.measure`."""
        own = deadline.within(self.seconds)
        own.require(0.5, "reading examples and fitting probes to them")
        seen = DataSeen(view, seconds=min(2.0, own.left / 5))
        splits = [_usable(seen.train, TRAINING)]
        if seen.validation is not None:
            with suppress(NotApplicable):
                splits.append(_usable(seen.validation, VALIDATION, like=splits[0][0]))
        labels = labels_from([targets for _, targets, _ in splits])
        inputs = [rows[kept] for (rows, _, _), kept in zip(splits, labels.rows, strict=True)]
        signal, probed = label_signal.measure(inputs, labels, seen.train.repeats)
        suspects = None
        if labels.names:
            suspects = suspects_among(probed, labels, splits[0][2], own)
            rows = dict(zip(splits[0][2], splits[0][0], strict=True))
            self._listed = suspects.listed if suspects else []
            self._shown = [(suspect, rows[suspect.index]) for suspect in suspects.listed] if suspects else []
        return LabelsSeen(signal, suspects)

    def judge(self, ranks: Sequence[LabelsSeen]) -> list[Finding]:
        """Findings from rank 0's numbers."""
        first = ranks[0]
        found = list(label_signal.judge(first.signal))
        return found + (list(judge_suspects(first.suspects)) if first.suspects is not None else [])


def _usable(split: SplitSample, most: int, like: Tensor | None = None) -> tuple[Tensor, Tensor, list[int]]:
    """Inputs, targets and indices of at most so many examples, evenly spread.

    Raises:
        NotApplicable: Probes cannot look at them.
    """
    inputs, targets = split.inputs, split.targets
    if inputs is None or targets is None:
        what = "inputs" if inputs is None else "targets"
        raise NotApplicable(f"the {split.name} examples have no {what} that can be put into one tensor.")
    if split.discrete and inputs.dim() < 3:
        raise NotApplicable("the inputs are whole numbers, such as the numbers of words, which have no distances.")
    if like is not None and like.shape[1:] != inputs.shape[1:]:
        raise NotApplicable("the splits have inputs of different shapes.")
    if targets.is_complex() or len(targets) != len(inputs):
        raise NotApplicable("inputs and targets do not belong together one to one.")
    step = max(1, -(-len(inputs) // most))
    indices = split.indices or list(range(len(inputs)))
    return inputs[::step], targets[::step], indices[::step]
