"""The rule distillation."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_rules.combine.indexed_loader import Indices, index_as_they_come, inner_dataset, why_not_indexed
from lightning_rules.combine.reading import call, read, reading_of
from lightning_rules.combine.soft_loss import distillation_loss, soft_answer
from lightning_rules.combine.soft_targets import SoftTargets, data_key, file_key, fill
from lightning_rules.combine.stored_module import load_module
from lightning_rules.combine.student import Heard, Plan, in_place_of, listening, look_at, refuse_another_question
from lightning_rules.finding import Finding, Severity
from lightning_rules.ranks import gather
from lightning_rules.rule import NotApplicable, Rule
from lightning_rules.shards import refuse_shards
from lightning_rules.untouched import untouched
from lightning_rules.view import View

NAME = "distillation"


class Distillation(Rule):
    """A student learns from the probabilities of a larger model or an ensemble, and not from the labels alone.

    Why: How probable a teacher finds the wrong classes says what an example resembles, and a label does not. A small
        network taught so keeps much of what an ensemble gains, at the price of one small network.

    What it does: The loss that `training_step` returns becomes `(1 - mixing) * loss + mixing * distance`, where the
        distance is the Kullback-Leibler divergence from the teacher's to the student's probabilities, both at
        `temperature`, times its square; for labels the same for yes and no; for regressions the mean squared error to
        the teacher's mean. The student's outputs are heard as `training_step` itself computes them: nothing is
        computed twice, and batch norm and dropout are the run's own. What the step logs stays as it is;
        `distillation_loss` is logged beside it. The student's checkpoints are ordinary ones, without the teacher.
        `cached`: the teacher is asked once about each training example, as the data set gives it; its answers lie
        in half precision, as log probabilities, in a memory-mapped file, which later runs and killed ones go on
        with. Batches bring the numbers of their examples with them, so that shuffling, workers, accumulation and
        resuming in the middle of an epoch need no care. `consistent`: the teacher is asked at every step about the
        very inputs that the student's `forward` gets, augmented and mixed as they are. timm's `LogitDistillationTask`
        computes the same loss for classes, but asks its teacher anew at every step, and needs a training loop of its
        own and models with timm's attributes: it is not used.

    Fires when: `cached`, and two readings of an example differ, or `training_step` changes its inputs before
        `forward` (warning): the answers kept are of other inputs; take `consistent`. Else it says what it does. It
        does not apply without a teacher, with manual optimisation, a compiled module, sharded parameters, a
        `training_step` whose outputs are not seen, or, for `cached`, iterable data.

    Under DDP: Each rank computes its share of the cache, and all wait; each needs to see the file. Each rank's loss
        is of its own batch, and gradients are averaged as always.

    Cost: `cached`: one pass of the teacher over the training data, once, and two bytes for each class of each example
        on the disk; then one row read for each example. `consistent`: the teacher's forward at every step.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[Distillation(temperature=4.0)], logger=False)  # and teacher="ensemble.ckpt"

    Source: Hinton, Vinyals and Dean (2015), "Distilling the Knowledge in a Neural Network", section 2. Consistent
        targets: Beyer et al. (2022), "Knowledge distillation: A good teacher is patient and consistent", section 3.

    Args:
        teacher: A checkpoint of one model or of an ensemble, by the class that it names.
        temperature: What logits are divided by, above 0; 1 to 20 are usual, more for a surer teacher.
        mixing: The weight of the teacher, above 0 up to 1; the labels have the rest.
        targets: `"cached"` or `"consistent"`.
        cache_dir: Where answers are kept; by default beside the teacher, in `TEACHER.soft-targets`, by data set.
        on_error: ``"warn"`` or ``"raise"``; see :class:`~lightning_rules.Rule`.

    Raises:
        ValueError: An argument is out of range; or, before training, the teacher cannot be read, it answers another
            question than the student, or the cache is of another teacher or other data.
        FileNotFoundError: There is no such teacher.
    """

    name = NAME
    source = 'Hinton, Vinyals and Dean (2015), "Distilling the Knowledge in a Neural Network", section 2'
    kind = "enforce"

    def __init__(
        self,
        teacher: str | None = None,
        temperature: float = 4.0,
        mixing: float = 0.9,
        targets: Literal["cached", "consistent"] = "cached",
        cache_dir: str | None = None,
        on_error: Literal["warn", "raise"] = "warn",
    ) -> None:
        super().__init__(on_error)
        if not (math.isfinite(temperature) and temperature > 0):
            raise ValueError(f"Expected `temperature` to be above 0, but got {temperature}; 1 to 20 are usual.")
        if not 0 < mixing <= 1:
            raise ValueError(f"Expected `mixing` to be above 0 and at most 1, but got {mixing}; 0.5 to 0.9 are usual.")
        if targets not in ("cached", "consistent"):
            raise ValueError(f"Expected `targets` to be 'cached' or 'consistent', but got {targets!r}.")
        self.teacher = teacher
        self.temperature = temperature
        self.mixing = mixing
        self.targets = targets
        self.cache_dir = cache_dir
        self._undo = ExitStack()
        self._let_go()

    def _let_go(self) -> None:
        """Take everything back from the run."""
        self._undo.close()
        self._indices = Indices()
        self._network: Any = None
        self._plan: Plan | None = None
        self._cache: SoftTargets | None = None
        self._untaught = 0

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Read the teacher, before anything is built on it."""
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        self._let_go()
        if self.teacher is None:
            return
        failure: Exception | None = None
        try:
            with untouched():  # a module draws random numbers while it is made
                self._network = load_module(self.teacher)
        except (OSError, ValueError) as error:
            failure = error
        told = [said for said in gather(trainer, str(failure) if failure else None) if said]
        if failure is not None:
            raise failure
        if told:
            raise ValueError(told[0])
        if self.targets == "cached":
            index_as_they_come(trainer, self._indices, self._undo)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Find out how student and teacher speak; compute what is missing in the cache; listen."""

        def judge(ranks: Sequence[Plan]) -> list[Finding]:
            self._plan = ranks[0]
            return self._promises(ranks)

        self.observe(trainer, lambda: self._look(trainer, pl_module), judge)
        plan = self._plan
        if plan is None:
            return
        refuse_another_question(plan, str(self.teacher))
        if self.targets == "cached":
            self._cache = self._filled(trainer, pl_module, plan)
            self._network = None
        heard = self._undo.enter_context(listening(pl_module.get_submodule(plan.student.layer)))
        heard.on = False
        self._undo.enter_context(in_place_of(pl_module, functools.partial(self._taught, pl_module, heard)))

    def _look(self, trainer: Any, module: Any) -> Plan:
        if self._network is None:
            raise NotApplicable("no `teacher` was named; give the checkpoint of a trained model or of an ensemble.")
        if not module.automatic_optimization:
            raise NotApplicable("with manual optimisation the module computes its gradients itself.")
        if getattr(module, "_compiler_ctx", None) is not None:
            raise NotApplicable("the outputs of a compiled module are not seen; compile its layers instead.")
        refuse_shards(trainer)
        loader = trainer.train_dataloader
        data, repeatable = "", True
        if self.targets == "cached":
            reason = why_not_indexed(loader)
            if reason is not None:
                raise NotApplicable(f'{reason}; take targets="consistent".')
            data, repeatable = data_key(inner_dataset(loader)[0])
        view = View(trainer, module)
        batch: Any = view.batches(1)[0]
        student = look_at(view, batch)
        self._network = trainer.precision_plugin.convert_module(self._network).to(module.device)
        with untouched(module, loader), torch.no_grad():
            on_device = view.to_device(batch)
            reading = reading_of(self._network, on_device)  # its own loss, which needs gradients, tells
            self._network.requires_grad_(False)
            answers = soft_answer(read(call(self._network, on_device), reading), reading.task)
        return Plan(student, reading, tuple(answers.shape[1:]), data, repeatable)

    def _promises(self, ranks: Sequence[Plan]) -> list[Finding]:
        how = f"mixing {self.mixing:g}"
        if ranks[0].teacher.task != "regression":
            how = f"temperature {self.temperature:g}, {how}"
        findings = [Finding(NAME, Severity.INFO, f"Learns from {self.teacher} ({how}, {self.targets} targets).")]
        if self.targets == "consistent":
            return findings
        reason = ""
        if not all(plan.repeatable for plan in ranks):
            reason = "Two readings of the same training examples differ (random augmentation)"
        elif not all(plan.student.as_given for plan in ranks):
            reason = "The training step changes its inputs before forward (mixing, augmentation)"
        if reason:
            message = f"{reason}, and the teacher's answers are kept for one reading."
            findings.append(Finding(NAME, Severity.WARNING, message, 'Set `targets` to "consistent".'))
        return findings

    def _filled(self, trainer: Any, module: Any, plan: Plan) -> SoftTargets:
        """The cache, whole."""
        view, loader = View(trainer, module), trainer.train_dataloader
        dataset, collate = inner_dataset(loader)
        folder = Path(self.cache_dir) if self.cache_dir else Path(f"{self.teacher}.soft-targets", plan.data)
        key = {"data": plan.data, "task": plan.teacher.task, "rows": len(dataset), "row": list(plan.row)}
        key["teacher"] = gather(trainer, file_key(str(self.teacher)) if trainer.is_global_zero else "")[0]

        def answer(batch: Any) -> Tensor:
            said = read(call(self._network, view.to_device(batch)), plan.teacher)
            return soft_answer(said, plan.teacher.task)

        return fill(trainer, folder, key, answer, (dataset, collate), loader)

    def _taught(self, module: Any, heard: Heard, step: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The training step with the teacher's say in its loss."""
        heard.on = True
        try:
            returned = step(*args, **kwargs)
        finally:
            heard.on, calls, heard.calls = False, heard.calls, []
        loss = returned.get("loss") if isinstance(returned, Mapping) else returned
        if not isinstance(loss, Tensor):
            return returned
        batch = args[0] if args else next(iter(kwargs.values()))
        distances = [self._distance(call, batch) for call in calls]
        known = [distance for distance in distances if distance is not None]
        if not known:
            self._untaught += 1
            return returned
        distance = torch.stack(known).mean()
        module.log("distillation_loss", distance.detach())
        loss = (1 - self.mixing) * loss + self.mixing * distance.to(loss.dtype)
        return {**returned, "loss": loss} if isinstance(returned, Mapping) else loss

    def _distance(self, heard: tuple[tuple[Any, ...], dict[str, Any], Any], batch: Any) -> Tensor | None:
        """How far one call's answers are from the teacher's; None where those are not known."""
        assert self._plan is not None
        args, kwargs, output = heard
        answers = read(output, self._plan.student.reading).values
        if self._cache is not None:
            indices = self._indices.current
            if indices is None or len(indices) != len(answers):
                return None
            soft = self._cache[indices].to(answers.device)
        else:
            with torch.no_grad():
                direct = self._plan.student.layer == ""
                said = self._network(*args, **kwargs) if direct else call(self._network, batch)
            soft = soft_answer(read(said, self._plan.teacher), self._plan.teacher.task)
        return distillation_loss(answers, soft, self._plan.teacher.task, self.temperature)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Say whether some batches went by untaught; give the training step back."""
        if self._plan is not None:
            self.observe(trainer, lambda: self._untaught, lambda ranks: judge_end(sum(ranks)))
        self._let_go()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Give the training step back."""
        self._let_go()
        super().on_exception(trainer, pl_module, exception)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Let go of a fit that ended before it started."""
        if stage == "fit":
            self._let_go()
        super().teardown(trainer, pl_module, stage)


def judge_end(untaught: int) -> list[Finding]:
    """What to say of batches for which the teacher's answer was not known; pure."""
    if not untaught:
        return []
    message = f"{untaught} batches were learned from their labels alone: which examples they hold was not known."
    return [Finding(NAME, Severity.WARNING, message, 'Set `targets` to "consistent".', {"untaught": untaught})]
