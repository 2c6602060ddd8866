"""A student taught by a teacher, and what it keeps of the teacher's gain: the subcommand `distill`."""

import copy
from collections.abc import Sequence
from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule, Trainer

from lightning_recipe import summary
from lightning_rules import Distillation
from lightning_rules.combine.jury import Jury
from lightning_rules.combine.kept_gain import KeptGain, example_scores, kept_gain
from lightning_rules.combine.reading import Answer
from lightning_rules.combine.scores import Scores, paired_gain, scores
from lightning_rules.combine.stored_module import load_module, read_checkpoint


def distill(
    trainer: Trainer,
    model: LightningModule,
    rule: Distillation,
    datamodule: LightningDataModule | None = None,
    plain: str | None = None,
    **fit_options: Any,
) -> list[tuple[str, str]]:
    """Fit a model with a teacher, then test the teacher, the student and, if given, the same model without a teacher.

    Args:
        trainer: The run's trainer; its checkpoints are the student's.
        model: The student.
        rule: Names the teacher.
        datamodule: The data.
        plain: A checkpoint of the same model trained without a teacher, to be compared with.
        fit_options: Further arguments of `fit`.

    Returns:
        What was measured, as rows for a table; the same on all ranks.

    Raises:
        ValueError: The teacher or `plain` cannot be read, or the rule does not apply to this run.
        FileNotFoundError: There is no such file.
    """
    others = {"Teacher": load_module(str(rule.teacher))}
    if plain is not None:  # now, and not after the training
        others["Without a teacher"] = load_module(plain)
    present: Any = trainer.callbacks  # type: ignore[attr-defined]
    trainer.callbacks = [rule, *present]  # type: ignore[attr-defined]
    trainer.fit(model, datamodule=datamodule, **fit_options)
    refusals = [finding.message for finding in rule.findings if finding.message.startswith("Does not apply")]
    if refusals:
        raise ValueError(f"The student was trained without its teacher. {refusals[0]}")
    best = getattr(trainer.checkpoint_callback, "best_model_path", "")
    student = copy.deepcopy(model)
    if best:
        student.load_state_dict(read_checkpoint(best)["state_dict"])
    log_dir = trainer.log_dir
    compared = {"Student": student, **others}
    jury = Jury([one.eval() for one in compared.values()])
    data: Any = {"datamodule": datamodule} if datamodule is not None else {"dataloaders": model.test_dataloader()}
    trainer.test(jury, verbose=False, **data)
    rows = report(list(compared), jury)
    return [*rows, ("Checkpoint", summary.shown_path(best) if best else "none kept"), *summary.path_rows(log_dir)]


def report(names: Sequence[str], jury: Jury) -> list[tuple[str, str]]:
    """Rows about each model, and about the gain that the student keeps.

    Args:
        names: Of the jury's modules: the student, the teacher and perhaps the model without one.
        jury: After its test.
    """
    task = jury.reading.task
    judged = [scores(Answer(values), jury.targets, task) for values in jury.values]
    rows = [(name, _shown(one)) for name, one in zip(names, judged, strict=True)]
    gain, half = paired_gain(jury.values[1], jury.values[0], jury.targets, task)
    better = "mean squared error" if task == "regression" else "accuracy"
    rows.append(("Student - teacher", f"{gain:+.4f} ± {half:.4f} in {better}, on the same examples (above 0: better)"))
    if len(jury.values) < 3:
        return rows
    student, teacher, without = (example_scores(values, jury.targets, task) for values in jury.values)
    for name in teacher:
        rows.append((f"Kept of {name}", _shown_share(kept_gain(without[name], student[name], teacher[name]))))
    return rows


def _shown(judged: Scores) -> str:
    nll = f", negative log-likelihood {judged.nll:.4f}" if judged.nll is not None else ""
    if judged.accuracy is None:
        return f"error {judged.error:.4g}, 95% interval {judged.low:.4g} to {judged.high:.4g}{nll}"
    share = f"{judged.accuracy:.2%}, 95% interval {judged.low:.2%} to {judged.high:.2%}"
    return f"{share} of {judged.examples}{nll}, calibration error {judged.ece:.4f}"


def _shown_share(kept: KeptGain) -> str:
    gain = f"the teacher's gain of {kept.gain:+.4f} (95% interval {kept.gain_low:+.4f} to {kept.gain_high:+.4f})"
    if kept.gain_low <= 0:
        return f"unknown: {gain} is not told apart from none on these examples"
    return f"{kept.share:.0%} of {gain}, 95% interval {kept.low:.0%} to {kept.high:.0%}"
