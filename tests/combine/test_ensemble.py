"""The rule ensemble: members from a run or from files, compared on the same examples."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from lightning_rules import Ensemble, EnsembleModule, MovingAverage, Severity
from lightning_rules.combine.comparison import compare
from lightning_rules.combine.ensemble import judged
from lightning_rules.combine.evaluation import Collected
from lightning_rules.combine.member_files import MemberFiles
from lightning_rules.combine.reading import Answer, Reading
from lightning_rules.combine.stored_module import load_module
from lightning_rules.rule import NotApplicable


@pytest.fixture(autouse=True)
def _importable(classifier: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    holder = type("Module", (), {classifier.__qualname__: classifier})
    monkeypatch.setitem(sys.modules, classifier.__module__, sys.modules.get(classifier.__module__) or holder)


def fit(rule: Ensemble, module: Any, data: Any, trainer: Any, *others: Any, **options: Any) -> Any:
    L.seed_everything(1, verbose=False)
    folder = {"default_root_dir": "run", "enable_checkpointing": True}
    fitted = trainer(callbacks=[*others, rule], **{**folder, **options})
    fitted.fit(module, datamodule=data)
    return fitted


def keep(count: int = 3) -> ModelCheckpoint:
    return ModelCheckpoint("run/kept", monitor="val/loss", save_top_k=count, filename="{epoch}")


def messages(rule: Ensemble, severity: Severity = Severity.INFO) -> str:
    return " ".join(f.message for f in rule.findings if f.severity is severity)


def test_the_best_checkpoints_of_a_run(classifier: Any, data: Any, trainer: Any, capsys: Any) -> None:
    rule, module = Ensemble(), classifier()
    fitted = fit(rule, module, data, trainer, keep())
    comparison = rule.comparison
    assert [Path(name).stem for name in comparison.members] == ["epoch=0", "epoch=1", "epoch=2"]
    assert {row.name for row in comparison.rows} >= {"single best", "ensemble", "uniform soup"}
    ensemble = EnsembleModule.load_from_checkpoint("run/ensemble/ensemble.ckpt", weights_only=True)
    x, y = data.parts["test"].tensors
    assert comparison.row("ensemble").scores["test"].accuracy == pytest.approx(
        float((ensemble(x).argmax(1) == y).float().mean())
    )
    singles = [float(fitted.checkpoint_callback.best_k_models[name]) for name in comparison.members]
    assert comparison.best == singles.index(min(singles))
    assert comparison.row("single best").losses["val"] == pytest.approx(min(singles), rel=0.1)  # of batches, there
    written = json.loads(Path("run/ensemble/comparison.json").read_text())
    assert written["winner"] == comparison.winner
    assert "3 models together, 41 test answers, in %" in capsys.readouterr().out
    assert "The ensemble of 3 has test accuracy" in messages(rule)


def test_the_run_is_left_as_it_was(classifier: Any, data: Any, trainer: Any) -> None:
    weights = []
    for rule in (Ensemble(), Ensemble("snapshots")):  # one compares, the other does not apply
        torch.manual_seed(0)
        module = classifier(norm=True)
        fit(rule, module, data, trainer, keep())
        weights.append({name: value.clone() for name, value in module.state_dict().items()})
        assert all(part.training for part in module.modules())
        assert (rule.comparison is None) == (rule.members == "snapshots")
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_soup_knows_its_own_batch_statistics(classifier: Any, data: Any, trainer: Any) -> None:
    torch.manual_seed(0)
    rule, module = Ensemble(), classifier(norm=True, lr=0.2)
    torch.nn.init.constant_(module.net[1].running_var, 1e6)  # far from the data: what training leaves is still wrong
    fit(rule, module, data, trainer, keep())
    soup, single = rule.comparison.row("uniform soup"), rule.comparison.row("single best")
    assert soup.scores["val"].accuracy > single.scores["val"].accuracy + 0.1
    assert soup.passes == 1


def test_snapshots_of_cosine_cycles(classifier: Any, data: Any, trainer: Any) -> None:
    rates = []

    class Rates(L.Callback):
        def on_train_batch_end(self, trainer: Any, *rest: Any) -> None:
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    rule = Ensemble("snapshots", cycles=3)
    fit(rule, classifier(lr=0.2), data, trainer, Rates())
    assert len(rates) == 24
    assert [step for step in range(24) if rates[step] == 0.2] == [0, 8, 16]
    assert min(rates) < 0.01
    taken = [torch.load(f"run/ensemble/snapshot-{i}.ckpt", weights_only=True)["global_step"] for i in (1, 2, 3)]
    assert taken == [8, 16, 24]
    assert len(rule.comparison.members) == 3


def test_a_resumed_run_goes_on_with_its_snapshots(classifier: Any, data: Any, trainer: Any) -> None:
    every = ModelCheckpoint("run/every", save_top_k=-1, filename="{epoch}")
    fit(Ensemble("snapshots", cycles=3), classifier(lr=0.2), data, trainer, every)
    rule, module = Ensemble("snapshots", cycles=3), classifier(lr=0.2)
    resumed = trainer(callbacks=[rule], default_root_dir="run")
    resumed.fit(module, datamodule=data, ckpt_path="run/every/epoch=1.ckpt", weights_only=True)
    assert [Path(name).name for name in rule.comparison.members] == [f"snapshot-{i}.ckpt" for i in (1, 2, 3)]
    assert rule._cycles.base == [0.2]


class Cyclic:
    """A classifier with a schedule of its own; made here, since its base is a fixture."""

    def __new__(cls, classifier: Any, schedule: Any) -> Any:
        def configure_optimizers(self: Any) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), 0.1)
            return [optimizer], [{"scheduler": schedule(optimizer), "interval": "step"}]

        return type("Scheduled", (classifier,), {"configure_optimizers": configure_optimizers})()


def test_snapshots_at_the_restarts_of_a_schedule(classifier: Any, data: Any, trainer: Any) -> None:
    module = Cyclic(classifier, lambda o: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(o, 8))
    rule = Ensemble("snapshots")
    fit(rule, module, data, trainer)
    taken = [torch.load(f"run/ensemble/snapshot-{i}.ckpt", weights_only=True)["global_step"] for i in (1, 2, 3)]
    assert taken == [8, 16, 24]


def test_a_warm_up_is_no_restart(classifier: Any, data: Any, trainer: Any) -> None:
    module = Cyclic(classifier, lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, total_steps=24))
    rule = Ensemble("snapshots")
    fit(rule, module, data, trainer)
    assert "1 snapshot was taken: the learning rate has no cycles; set `cycles`." in messages(rule)


def test_cycles_beside_a_schedule_are_refused(classifier: Any, data: Any, trainer: Any) -> None:
    module = Cyclic(classifier, lambda o: torch.optim.lr_scheduler.LinearLR(o))
    rule = Ensemble("snapshots", cycles=3)
    fit(rule, module, data, trainer)
    assert "the module has a schedule of its own" in messages(rule)
    assert not Path("run/ensemble").exists()


def test_a_list_after_validate(classifier: Any, members: Any, data: Any, trainer: Any) -> None:
    paths = members(5, 9, 6)
    rule = Ensemble(paths, weighting="fitted", folder="out", test=False)
    trainer(callbacks=[rule]).validate(classifier(), datamodule=data, verbose=False)
    assert list(rule.comparison.members) == paths
    assert {row.name for row in rule.comparison.rows} == {"single best", "ensemble"}  # no soup of other widths
    assert list(rule.comparison.differ) == ["val"]
    again = EnsembleModule.load_from_checkpoint("out/ensemble.ckpt", weights_only=True)
    assert [member.hparams["width"] for member in again.members] == [5, 9, 6] or len(again.members) == 2


def test_missing_and_damaged_members_are_named_before_training(
    classifier: Any, members: Any, data: Any, trainer: Any
) -> None:
    paths = members(5, 9)
    with pytest.raises(FileNotFoundError, match=r"There is no checkpoint gone.ckpt"):
        fit(Ensemble([*paths, "gone.ckpt"]), classifier(), data, trainer)
    Path(paths[1]).write_bytes(Path(paths[1]).read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"member1.ckpt is damaged"):
        fit(Ensemble(paths), classifier(), data, trainer)
    assert not Path("run/ensemble").exists()


def test_averaged_weights_are_compared(classifier: Any, data: Any, trainer: Any) -> None:
    rule = Ensemble()
    fit(rule, classifier(), data, trainer, MovingAverage(decay=0.9), keep())
    assert rule.comparison.row("averaged weights").passes == 1


def test_what_cannot_be_saved_is_compared_all_the_same(data: Any, classifier: Any, trainer: Any) -> None:
    class Given(classifier):  # type: ignore[misc]
        def __init__(self, layer: nn.Module) -> None:
            super().__init__()
            self.hparams.pop("layer", None)
            self.net[3] = layer

    rule = Ensemble()
    fit(rule, Given(nn.Linear(8, 3)), data, trainer, keep())
    assert "The ensemble was not saved: Given cannot be made again" in messages(rule, Severity.WARNING)
    assert rule.comparison is not None
    assert not Path("run/ensemble/ensemble.ckpt").exists()


def test_hyperparameters_of_another_network_are_noticed(data: Any, classifier: Any, trainer: Any) -> None:
    class Forgets(classifier):  # type: ignore[misc]
        def __init__(self, width: int = 8) -> None:
            super().__init__(width)
            del self.hparams["width"]

    rule = Ensemble()
    fit(rule, Forgets(5), data, trainer, keep())
    assert "Forgets made again from its hyperparameters has other layers" in messages(rule, Severity.WARNING)
    assert not Path("run/ensemble/ensemble.ckpt").exists()


def test_a_choice_of_one_member_can_be_loaded_too(members: Any, classifier: Any) -> None:
    files = MemberFiles(members(5, 9), classifier(), own=False)
    files.save_ensemble(Path("one.ckpt"), Reading("multiclass"), "probabilities", torch.tensor([0.0, 1.0]))
    ensemble, x = EnsembleModule.load_from_checkpoint("one.ckpt", weights_only=True), torch.randn(4, 4)
    torch.testing.assert_close(ensemble(x).exp(), load_module("member1.ckpt", classifier)(x).softmax(1))


def test_one_checkpoint_is_no_ensemble(classifier: Any, data: Any, trainer: Any) -> None:
    rule = Ensemble()
    fit(rule, classifier(), data, trainer, keep(1))
    assert "Does not apply: no checkpoint callback has kept 2 or more" in messages(rule)
    assert rule.comparison is None


def test_a_rehearsal_does_not_apply(classifier: Any, data: Any, trainer: Any) -> None:
    rule = Ensemble()
    fit(rule, classifier(), data, trainer, keep(), fast_dev_run=True)
    assert "fast_dev_run saves no checkpoints" in messages(rule)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"members": "seeds"}, "Expected `members` to be 'top-k', 'snapshots' or at least 2 checkpoints"),
        ({"members": ["one.ckpt"]}, "at least 2 checkpoints"),
        ({"cycles": 3}, "Expected `cycles` to be at least 2, with members='snapshots'"),
        ({"members": "snapshots", "cycles": 1}, "Expected `cycles` to be at least 2"),
        ({"average": "mean"}, "Expected `average` to be one of probabilities, logits"),
        ({"weighting": "best"}, "Expected `weighting` to be one of equal, fitted, greedy"),
        ({"criterion": "f1"}, "Expected `criterion` to be one of loss, accuracy"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Ensemble(**options)


# The judgement, fed with numbers.

CLASSES = torch.arange(90) % 3


def said(right: int, seed: int) -> dict[str, Collected]:
    """A model that is right on so many, and on which ones depends on the seed."""
    logits = torch.randn(90, 3, generator=torch.Generator().manual_seed(seed)) * 0.1
    order = torch.randperm(90, generator=torch.Generator().manual_seed(seed))[:right]
    logits[order, CLASSES[order]] += 2
    return {"val": Collected(Answer(logits), CLASSES)}


def compared(*members: Any, others: Any = None, criterion: Any = "loss") -> Any:
    names, weights = [f"{i}.ckpt" for i in range(len(members))], torch.full((len(members),), 1 / len(members))
    ensemble = {"ensemble": (members[0], len(members))} if others is None else others
    return compare(names, members, ensemble, weights, Reading("multiclass"), criterion)


def test_the_winner_is_chosen_on_validation() -> None:
    better, worse = said(80, 0), said(40, 1)
    assert compared(worse, worse, others={"ensemble": (better, 2)}).winner == "ensemble"
    assert compared(better, worse, others={"ensemble": (worse, 2)}).winner == "single best"
    assert compared(better, worse).best == 0


def test_by_accuracy_the_loss_does_not_count() -> None:
    right, sure = said(80, 0), said(75, 1)
    right["val"].answer.values[80:] *= 20  # very sure, also where it is wrong
    wrong = right["val"].answer.values.argmax(1) != CLASSES
    right["val"].answer.values[wrong] *= 50
    assert compared(right, sure, criterion="accuracy").best == 0
    assert compared(right, sure).best == 1


def test_among_equals_the_cheaper_wins() -> None:
    one = said(80, 0)
    assert compared(one, one).winner == "single best"


def test_gains_are_over_the_single_best() -> None:
    comparison = compared(said(45, 1), said(45, 2), others={"ensemble": (said(90, 3), 2)})
    gain, half = comparison.row("ensemble").gains["val"]
    assert gain == pytest.approx(0.5, abs=0.25)
    assert 0 < half < 0.2


def test_copies_are_an_alarm_and_members_that_differ_are_not() -> None:
    one = said(80, 0)
    alarms = [f for f in judged(compared(one, one), "", "run") if f.severity is Severity.WARNING]
    assert [f.evidence["disagreement"] for f in alarms] == [0.0]
    healthy = list(judged(compared(one, said(80, 5)), "", "run"))
    assert [f.severity for f in healthy] == [Severity.INFO]


def test_nan_and_other_shapes_are_refused() -> None:
    one = said(80, 0)
    nan = {"val": Collected(Answer(one["val"].answer.values * float("nan")), CLASSES)}
    with pytest.raises(NotApplicable, match=r"1.ckpt answers with NaN or infinity on val"):
        compared(one, nan)
    wide = {"val": Collected(Answer(torch.zeros(90, 4)), CLASSES)}
    with pytest.raises(NotApplicable, match=r"1.ckpt answers with shape \(90, 4\), and 0.ckpt with \(90, 3\)"):
        compared(one, wide)
