"""Cascade: thresholds do what was wanted, stages see only what goes on, the checkpoint stands alone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_rules import Cascade
from lightning_rules.combine.routing import choose, evaluate, front, passing, screens, search, stops
from lightning_rules.combine.stored_module import load_module

pytestmark = pytest.mark.filterwarnings("ignore")


class Stage(L.LightningModule):
    """Reads the class off its inputs, the better the less noise it adds; counts the examples it is asked about."""

    def __init__(self, noise: float, classes: int = 3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.noise, self.asked = noise, 0
        self.weight = nn.Parameter(torch.eye(classes) * 4)

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        self.asked += len(x)
        blurred = x + self.noise * torch.sin(1e3 * x)  # the same for an example, whatever its batch
        return (blurred if scale is None else blurred * scale[:, None]) @ self.weight

    def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])


class Screen(Stage):
    """The same for one label, as a probability."""

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        logits = super().forward(x)
        return (logits[:, 1] - logits[:, 0]).sigmoid()

    def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.binary_cross_entropy(self(batch[0]), batch[1].float())


def data(classes: int = 3, count: int = 403) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(classes, (count,), generator=generator)
    inputs = F.one_hot(labels, classes) + 0.25 * torch.randn(count, classes, generator=generator)
    return DataLoader(TensorDataset(inputs, labels), 64)


def cascade(kind: Any = Stage, noises: tuple[float, ...] = (1.0, 0.0), **options: Any) -> Any:
    classes = 3 if kind is Stage else 2
    return Cascade([kind(noise, classes) for noise in noises], **{"costs": [1.0, 5.0, 25.0][: len(noises)], **options})


def scores(stages: int = 3, count: int = 300) -> tuple[Tensor, Tensor, Tensor]:
    """Confidences, judgements and costs of stages that get better."""
    generator = torch.Generator().manual_seed(2)
    confidence = torch.rand(stages, count, generator=generator)
    base = torch.linspace(0.1, 0.6, stages)[:, None]
    return (
        confidence,
        torch.rand(stages, count, generator=generator) < base + 0.4 * confidence,
        3.0 ** torch.arange(stages),
    )


def test_where_examples_stop() -> None:
    signal = torch.tensor([[0.9, 0.5, 0.5, 0.9], [0.1, 0.8, 0.2, 0.9], [0.0, 0.0, 0.0, 0.0]])
    assert stops(signal, torch.tensor([0.9, 0.8])).tolist() == [0, 1, 2, 0]
    assert stops(signal[:1], torch.zeros(0)).tolist() == [0, 0, 0, 0]


def test_cost_and_accuracy_by_a_loop() -> None:
    signal, right, costs = scores()
    thresholds = torch.tensor([[0.7, 0.4], [0.2, 0.9]])
    points = evaluate(signal, right, costs, thresholds)
    for row, limits in enumerate(thresholds):
        spent, hits = 0.0, 0
        for example in range(signal.shape[1]):
            stage = next((s for s in range(2) if signal[s, example] >= limits[s]), 2)
            spent += float(costs[: stage + 1].sum())
            hits += bool(right[stage, example])
        assert float(points.cost[row]) == pytest.approx(spent / signal.shape[1])
        assert float(points.accuracy[row]) == pytest.approx(hits / signal.shape[1])


@pytest.mark.parametrize("stages", [1, 2, 3, 4])
def test_the_front_is_not_beaten_by_random_thresholds(stages: int) -> None:
    signal, right, costs = scores(stages, 120)
    best = search(signal, right, costs)
    assert bool((best.cost.diff() > 0).all())
    assert bool((best.accuracy.diff() > 0).all())
    tried = evaluate(signal, right, costs, torch.rand(300, stages - 1, generator=torch.Generator().manual_seed(3)))
    beaten = 0
    for cost, accuracy in zip(tried.cost, tried.accuracy, strict=True):
        dearest = int((best.cost <= cost + 1e-9).sum()) - 1
        beaten += dearest < 0 or float(best.accuracy[dearest]) < float(accuracy) - (0.0 if stages < 3 else 0.01)
    assert beaten <= (0 if stages < 4 else 15)
    assert len(front(best)) == len(best)


def test_choices_reach_what_was_wanted() -> None:
    signal, right, costs = scores()
    points = search(signal, right, costs)
    accurate = choose(signal, right, costs, accuracy=0.6)
    assert accurate.reached
    assert accurate.accuracy >= 0.6
    assert not bool(((points.accuracy >= 0.6) & (points.cost < accurate.cost - 1e-9)).any())
    cheap = choose(signal, right, costs, cost=6.0)
    assert cheap.cost <= 6.0
    assert not bool(((points.cost <= 6.0) & (points.accuracy > cheap.accuracy)).any())
    assert not choose(signal, right, costs, accuracy=0.999).reached
    assert not choose(signal, right, costs, cost=0.5).reached


def test_a_choice_is_judged_on_other_examples_than_it_was_made_on() -> None:
    """Confidences that say nothing: thresholds look better by choice than they can be, and the estimate does not."""
    chosen, fresh = [], []
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        signal, right = torch.rand(3, 150, generator=generator), torch.rand(3, 150, generator=generator) < 0.5
        choice = choose(signal, right, torch.ones(3), accuracy=0.99)
        assert choice.low < choice.fresh_accuracy < choice.high
        chosen.append(choice.accuracy)
        fresh.append(choice.fresh_accuracy)
    assert sum(chosen) / 8 > 0.55
    assert 0.45 < sum(fresh) / 8 < 0.53


@pytest.mark.parametrize("stages", [2, 3])
def test_screens_lose_no_more_positives_than_was_promised(stages: int) -> None:
    broken = 0
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        truth = torch.rand(2000, generator=generator) < 0.3
        negative = (torch.randn(stages, 2000, generator=generator) - 2.0 * truth).sigmoid()
        old, new = slice(0, 1000), slice(1000, 2000)
        thresholds, proven = screens(negative[:, old], truth[old], 0.9)
        assert 0.9 <= proven < 0.93
        alive = (negative[:-1, new] < thresholds[:, None]).all(dim=0)
        broken += float(alive[truth[new]].double().mean()) < 0.9
        recall, precision = passing(negative[:, old], truth[old], thresholds)[-2]
        assert recall >= 0.9
        assert precision > 0.3
        assert bool((thresholds >= 0.5).all())
    assert broken <= 4  # 5% of 20, and chance


def test_too_few_positives_prove_nothing() -> None:
    truth = torch.arange(100) < 20
    thresholds, proven = screens(torch.rand(2, 100), truth, 0.95)
    assert thresholds.tolist() == [float("inf")]
    assert proven == pytest.approx(0.05 ** (1 / 20))


def test_later_stages_see_only_what_goes_on(quiet: Any) -> None:
    model = cascade(accuracy=0.95)
    quiet().validate(model, data(), verbose=False)
    assert [stage.asked for stage in model.stages] >= [403, 403]
    for stage in model.stages:
        stage.asked = 0
    (results,) = quiet().test(model, data(), verbose=False)
    share = 1 - results["test/stopped_0"]
    assert 0.05 < share < 0.95
    assert [stage.asked for stage in model.stages] == [403, round(403 * share)]
    assert results["test/cost"] == pytest.approx(1 + 5 * share)
    assert results["test/accuracy"] >= 0.95


def test_forward_is_the_stage_that_answers(quiet: Any) -> None:
    model = cascade(noises=(1.0, 0.5, 0.0), thresholds=[0.9, 0.8], readings=[{"task": "multiclass"}] * 3)
    x = data().dataset[:][0]
    answers = [stage(x).log_softmax(1) for stage in model.stages]
    confidence = torch.stack([answer.exp().amax(1) for answer in answers])
    stage = stops(confidence, torch.tensor([0.9, 0.8]))
    expected = torch.stack(answers)[stage, torch.arange(len(x))]
    assert set(stage.tolist()) == {0, 1, 2}
    torch.testing.assert_close(model(x), expected)
    ones = torch.ones(len(x))
    torch.testing.assert_close(model(x, scale=ones), expected)
    torch.testing.assert_close(model(x=x, scale=ones), expected)
    predicted = quiet().predict(model, data())
    assert torch.equal(torch.cat([one["stage"] for one in predicted]), stage)
    torch.testing.assert_close(torch.cat([one["probabilities"] for one in predicted]), expected.exp())
    assert torch.equal(torch.cat([one["label"] for one in predicted]), data().dataset[:][1])
    assert "refused" not in predicted[0]


def test_nested_inputs_go_on_example_by_example(quiet: Any) -> None:
    inputs, labels = data().dataset[:]
    named = [{"x": x, "scale": torch.tensor(1.0), "y": y} for x, y in zip(inputs, labels, strict=True)]
    model, plain = (cascade(thresholds=[0.9], readings=[{"task": "multiclass"}] * 2) for _ in range(2))
    (nested,) = quiet().test(model, DataLoader(named, 64), verbose=False)
    (flat,) = quiet().test(plain, data(), verbose=False)
    assert nested == pytest.approx(flat)
    assert 0 < nested["test/stopped_0"] < 1


def test_reject_option(quiet: Any) -> None:
    model = cascade(accuracy=0.95, risk=0.06)
    (results,) = quiet().validate(model, data(), verbose=False)
    assert results["val/risk"] <= 0.06
    assert 0.2 < results["val/coverage"] < 1
    predicted = quiet().predict(model, data())
    refused = torch.cat([one["refused"] for one in predicted])
    assert float((~refused).double().mean()) == pytest.approx(results["val/coverage"])
    share = cascade(accuracy=0.95, coverage=0.5)
    (results,) = quiet().validate(share, data(), verbose=False)
    assert results["val/coverage"] == pytest.approx(0.5, abs=0.01)


def test_screens_of_a_binary_task(quiet: Any, capsys: pytest.CaptureFixture[str]) -> None:
    model = cascade(Screen, (0.8, 0.0), recall=0.9)
    (results,) = quiet().validate(model, data(2), verbose=False)
    assert 0.1 < results["val/stopped_0"] < 0.6
    said = re.search(
        r"With 95% probability the screens let through at least (0\.9\d+) of new positives", capsys.readouterr().out
    )
    assert said is not None
    inputs, labels = data(2).dataset[:]
    first = model.stages[0](inputs)
    going = 1 - first < model.thresholds[0]
    assert float(going[labels == 1].double().mean()) >= 0.9
    assert bool((model(inputs)[~going, 0] <= 0).all()), "a screen only says no"


def test_the_checkpoint_stands_alone(quiet: Any, saved: Any, tmp_path: Path) -> None:
    paths = [saved(Stage(noise), f"{noise}.ckpt") for noise in (1.0, 0.0)]
    model = Cascade(paths, accuracy=0.95, risk=0.06, costs="parameters")
    checked = quiet(default_root_dir=tmp_path)
    checked.validate(model, data(), verbose=False)
    file = tmp_path / "cascade" / "cascade.ckpt"
    assert (tmp_path / "cascade" / "cascade.png").stat().st_size > 10_000
    for path in paths:
        Path(path).unlink()
    again = load_module(file)
    kept = ("thresholds", "refuse_under", "costs", "cost_unit", "readings", "accuracy")
    assert {name: getattr(again, name) for name in kept} == {name: getattr(model, name) for name in kept}
    assert again.costs == [9.0, 9.0]
    x = data().dataset[:][0]
    assert torch.equal(again(x), model(x))
    fresh = cascade(accuracy=0.5, noises=(1.0, 0.0))
    first = quiet().test(fresh, data(), ckpt_path=file, weights_only=True, verbose=False)
    assert first == quiet().test(model, data(), verbose=False)


def test_costs_are_measured(quiet: Any) -> None:
    class Slow(Stage):
        def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
            for _ in range(3000):
                x.sin()
            return super().forward(x)

    model = Cascade([Stage(1.0), Slow(0.0)], accuracy=0.9)
    quiet().validate(model, data(), verbose=False)
    assert model.cost_unit == "ms"
    assert 0 < model.costs[0] * 2 < model.costs[1] < 10


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Cascade([Stage(1.0)], accuracy=0.9), "Expected at least 2 stages, cheap first, but got 1."),
        (lambda: cascade(), "Expected `accuracy`, `cost` or `recall` to choose thresholds by, or `thresholds`"),
        (lambda: cascade(accuracy=0.9, cost=3), "Expected at most one of `accuracy`, `cost`, `recall`"),
        (lambda: cascade(accuracy=98.0), "Expected `accuracy` to be above 0 and below 1, but got 98.0."),
        (lambda: cascade(thresholds=[0.9, 0.9]), "Expected 1 `thresholds` for 2 stages, but got 2."),
        (lambda: cascade(accuracy=0.9, costs="watts"), "Expected `costs` to be 'time', 'parameters' or a number"),
        (lambda: cascade(accuracy=0.9)(torch.zeros(2, 3)), "run `trainer.validate(cascade, ...)` with `accuracy`"),
    ],
)
def test_contradictions(make: Any, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        make()


def test_stages_with_other_classes_are_refused(quiet: Any) -> None:
    class Wide(Stage):
        def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
            return F.pad(super().forward(x), (0, 4))

    with pytest.raises(ValueError, match="share their classes, but these have 3, 7"):
        quiet().validate(Cascade([Stage(1.0), Wide(0.0)], accuracy=0.9), data(), verbose=False)


def test_a_missing_stage_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"There is no checkpoint cheap.ckpt"):
        Cascade(["cheap.ckpt", "dear.ckpt"], accuracy=0.9)
