"""The errors of a validation, against torchmetrics and against a network whose mistakes are planted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.functional.classification import multiclass_confusion_matrix, multilabel_confusion_matrix

from lightning_rules import Severity, WorstErrors
from lightning_rules.answers import Answers
from lightning_rules.watch.error_tally import KEPT, Errors, ErrorTally, Mistake, Pair, read, together
from lightning_rules.watch.worst_errors import judge_errors


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tallied(answers: list[Answers], inputs: list[Tensor] | None = None) -> tuple[Errors, dict[str, Any]]:
    tally, seen = ErrorTally(answers[0]), 0
    for place, one in enumerate(answers):
        index = torch.arange(seen, seen + len(one.outputs) // one.rows_per_example)
        tally.add(one, inputs[place] if inputs else None, index.repeat_interleave(one.rows_per_example))
        seen += len(index)
    return read(tally.readings()), tally.readings()


def test_counts_as_torchmetrics_does() -> None:
    outputs, targets = torch.randn(90, 4, generator=random(0)), torch.randint(-1, 4, (90,), generator=random(1))
    errors, _ = tallied([Answers("softmax", o, t) for o, t in zip(outputs.split(30), targets.split(30), strict=True)])
    table = multiclass_confusion_matrix(outputs, targets, 4, ignore_index=-1)
    wrong = table - table.diag().diag()
    assert errors.examples == int((targets >= 0).sum())
    assert errors.wrong == int(wrong.sum())
    assert errors.members == table.sum(1).tolist()
    assert errors.false_negatives == wrong.sum(1).tolist()
    assert errors.false_positives == wrong.sum(0).tolist()
    assert {(pair.right, pair.said): pair.count for pair in errors.pairs} == {
        (int(a), int(b)): int(wrong[a, b]) for a, b in wrong.nonzero()
    }
    known = targets >= 0
    missed = known & (outputs.argmax(1) != targets)
    cost = F.cross_entropy(outputs[missed], targets[missed], reduction="sum")
    assert errors.cost == pytest.approx(float(cost), rel=1e-5)
    assert [pair.cost for pair in errors.pairs] == sorted((pair.cost for pair in errors.pairs), reverse=True)


def test_counts_several_yes_and_no_as_torchmetrics_does() -> None:
    outputs, targets = torch.randn(50, 3, generator=random(2)), torch.randint(2, (50, 3), generator=random(3))
    errors, _ = tallied([Answers("sigmoid", outputs, targets.float())])
    tables = multilabel_confusion_matrix(outputs.sigmoid(), targets, 3)
    assert errors.false_positives == tables[:, 0, 1].tolist()
    assert errors.false_negatives == tables[:, 1, 0].tolist()
    assert errors.pairs == []
    assert errors.wrong == int(((outputs > 0) != targets.bool()).any(1).sum())
    (finding,) = judge_errors(errors, [])
    assert "wrong in at least one class" in finding.message


def test_keeps_the_most_confident_mistakes_with_their_inputs() -> None:
    outputs, targets = 3 * torch.randn(120, 3, generator=random(4)), torch.randint(3, (120,), generator=random(5))
    inputs = torch.arange(120.0)[:, None].expand(120, 5)
    batches = [Answers("softmax", o, t) for o, t in zip(outputs.split(40), targets.split(40), strict=True)]
    errors, readings = tallied(batches, list(inputs.split(40)))
    confidence = outputs.softmax(1).amax(1) * (outputs.argmax(1) != targets)
    expected = confidence.argsort(descending=True)[:KEPT].tolist()
    assert [mistake.index for mistake in errors.mistakes] == expected
    assert readings["inputs"][:, 0].tolist() == expected
    assert errors.mistakes[0].said == int(outputs[expected[0]].argmax())
    assert errors.mistakes[0].right == int(targets[expected[0]])


def test_rows_of_one_example_share_its_input() -> None:
    outputs = torch.zeros(4, 2)
    outputs[3, 1] = 9.0
    errors, readings = tallied([Answers("softmax", outputs, torch.zeros(4).long(), 2)], [torch.tensor([[7.0], [8.0]])])
    assert [mistake.index for mistake in errors.mistakes] == [1]
    assert readings["inputs"][0].tolist() == [8.0]


def test_inputs_of_other_shapes_are_left_out() -> None:
    batches = [Answers("softmax", torch.randn(4, 2), torch.zeros(4).long()) for _ in range(2)]
    _, readings = tallied(batches, [torch.zeros(4, 3), torch.zeros(4, 5)])
    assert readings["inputs"] is None


def test_ranks_add_up() -> None:
    one = Errors("softmax", 10, 3, [1, 2], [2, 1], [5, 5], [Pair(0, 1, 2, 4.0)], [Mistake(0, 0.9, 1, 0)])
    two = Errors(
        "softmax", 8, 4, [3, 1], [1, 3], [4, 4], [Pair(1, 0, 3, 5.0), Pair(0, 1, 1, 2.0)], [Mistake(3, 0.95, 0, 1)]
    )
    both = together([one, two])
    assert (both.examples, both.wrong, both.false_positives, both.members) == (18, 7, [4, 3], [9, 9])
    assert both.pairs == [Pair(0, 1, 3, 6.0), Pair(1, 0, 3, 5.0)]
    assert [mistake.index for mistake in both.mistakes] == [3, 0]


def test_names_the_costliest_pair_and_the_class_that_is_missed_most() -> None:
    errors = Errors("softmax", 20, 5, [0, 1, 4], [4, 1, 0], [5, 10, 5], [Pair(0, 2, 4, 9.0), Pair(1, 1, 1, 1.0)])
    (finding,) = judge_errors(errors, ["cat", "dog", "fox"])
    assert finding.severity is Severity.INFO
    assert finding.message.startswith(
        "5 of 20 validation answers are wrong: cat taken for fox (4 times, 90% of the loss"
    )
    assert "missed most is cat (80% of its examples)" in finding.message
    assert judge_errors(None, []) == []
    residuals = Errors("mean", 4, 2.0, mistakes=[Mistake(2, 1.5, 3.0, 1.5)])
    assert (
        "is 0.5; the largest, 1.5, is that of example 2 (answered 3, right is 1.5)"
        in judge_errors(residuals, [])[0].message
    )


class Classifier(L.LightningModule):
    """Its last layer answers the class that the input says; class 0 of the validation looks like class 2."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 3)
        self.scale = nn.Parameter(torch.zeros(()))
        with torch.no_grad():
            self.head.weight.zero_()
            self.head.bias.zero_()
            for label in range(3):
                self.head.weight[label, label] = 5.0

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self.head(batch[0].flatten(1)), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        labels = batch.pop("labels") if isinstance(batch, dict) else batch[1]
        images = batch["images"] if isinstance(batch, dict) else batch[0]
        self.log("val_loss", F.cross_entropy(self.head(images.flatten(1)), labels))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.0)


def examples(confused: bool) -> TensorDataset:
    labels = torch.arange(48) % 3
    images = torch.zeros(48, 1, 8, 8)
    looks = torch.where(confused & (labels == 0), 2, labels)
    images.view(48, 64)[torch.arange(48), looks] = 1.0
    data = TensorDataset(images, labels)
    data.classes = ["cat", "$dog$", "fox"]  # type: ignore[attr-defined]
    return data


def fit(rule: WorstErrors, confused: bool, collate: Any = None, module: Any = None, **options: Any) -> L.Trainer:
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[rule],
        **options,
    )
    validation = DataLoader(examples(confused), 16, collate_fn=collate)
    trainer.fit(module or Classifier(), DataLoader(examples(False), 16), validation)
    return trainer


def as_mapping(items: list[Any]) -> dict[str, Tensor]:
    return {"images": torch.stack([x for x, _ in items]), "labels": torch.stack([y for _, y in items])}


@pytest.mark.parametrize("collate", [None, as_mapping], ids=["pairs", "mappings whose labels are taken out"])
def test_planted_confusion_is_named_and_drawn(tmp_path: Path, collate: Any) -> None:
    rule = WorstErrors()
    trainer = fit(rule, confused=True, collate=collate, default_root_dir=tmp_path)
    (finding,) = rule.findings
    assert finding.message.startswith("16 of 48 validation answers are wrong: cat taken for fox (16 times, 100%")
    assert (tmp_path / "rules" / "worst_errors.png").read_bytes().startswith(b"\x89PNG")
    assert rule.inputs is not None
    assert rule.inputs.shape == (16, 1, 8, 8)
    assert rule.errors is not None
    assert all(mistake.index % 3 == 0 for mistake in rule.errors.mistakes)
    assert rule._watch is None
    assert not trainer.lightning_module.head._forward_hooks


def test_nothing_is_confused_in_the_healthy_twin(tmp_path: Path) -> None:
    rule = WorstErrors()
    fit(rule, confused=False, default_root_dir=tmp_path)
    assert [finding.message for finding in rule.findings] == ["0 of 48 validation answers are wrong."]


def test_without_validation_it_says_so(tmp_path: Path) -> None:
    rule = WorstErrors()
    fit(rule, confused=True, default_root_dir=tmp_path, limit_val_batches=0)
    assert [finding.message for finding in rule.findings] == ["Does not apply: the run has no validation."]


def test_the_hook_comes_off_when_validation_fails(tmp_path: Path) -> None:
    class Failing(Classifier):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            super().validation_step(batch, batch_idx)
            raise RuntimeError("planted")

    rule, module = WorstErrors(), Failing()
    with pytest.raises(RuntimeError, match="planted"):
        fit(rule, confused=True, module=module, num_sanity_val_steps=0, default_root_dir=tmp_path)
    assert not module.head._forward_hooks
