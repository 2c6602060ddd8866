"""Answers to every example of a loader, once, in the order of the data."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as L
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

from lightning_rules.combine.evaluation import Evaluation, Rows, _joined
from lightning_rules.combine.positions import positions
from lightning_rules.combine.reading import Answer, Reading
from lightning_rules.rule import NotApplicable

MULTICLASS = Reading("multiclass")


class AtTheEnd(L.Callback):
    """Evaluates when the fit ends."""

    def __init__(self, look: Any) -> None:
        self.look, self.seen = look, None

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        self.seen = self.look(trainer, pl_module)


def test_each_example_in_the_order_of_the_data(classifier: Any, data: Any, trainer: Any) -> None:
    def look(trainer: Any, module: Any) -> Any:
        evaluation = Evaluation(trainer, module, trainer.val_dataloaders)
        reading = evaluation.reading(module)
        return reading, evaluation.collect(module, reading)

    callback, module = AtTheEnd(look), classifier()
    trainer(callbacks=[callback], max_epochs=1).fit(module, datamodule=data)
    reading, collected = callback.seen
    x, y = data.parts["val"].tensors
    assert reading == Reading("multiclass")
    assert torch.equal(collected.targets, y)
    torch.testing.assert_close(collected.answer.values, module.eval()(x))


def test_no_trace_is_left_in_the_run(classifier: Any, data: Any, trainer: Any) -> None:
    class EachEpoch(L.Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            modes = [part.training for part in pl_module.modules()]
            evaluation = Evaluation(trainer, pl_module, DataLoader(data.parts["test"], 7, shuffle=True))
            evaluation.collect(pl_module, evaluation.reading(pl_module))
            for part, mode in zip(pl_module.modules(), modes, strict=True):
                part.training = mode

    weights = []
    for callbacks in ([], [EachEpoch()]):
        L.seed_everything(3, verbose=False)
        module = classifier(norm=True)
        trainer(callbacks=callbacks).fit(module, datamodule=data)
        weights.append(module.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_what_cannot_be_judged_is_said(classifier: Any, data: Any, trainer: Any) -> None:
    def look(trainer: Any, module: Any) -> list[str]:
        said = []
        for loader in (
            DataLoader(TensorDataset(torch.zeros(4, 4)), 2),
            DataLoader(TensorDataset(torch.zeros(4, 4), -torch.ones(4, dtype=torch.long)), 2),
            DataLoader(TensorDataset(torch.zeros(4, 9), torch.zeros(4, dtype=torch.long)), 2),
        ):
            with pytest.raises(NotApplicable) as raised:
                Evaluation(trainer, module, loader).collect(module, Reading("multiclass"))
            said.append(str(raised.value))
        return said

    callback = AtTheEnd(look)
    trainer(callbacks=[callback], max_epochs=1).fit(classifier(), datamodule=data)
    no_targets, unknown, broken = callback.seen
    assert no_targets == "the targets of a batch are NoneType, and no tensor."
    assert unknown == "no example has a target."
    assert "mat1 and mat2" in broken


def test_what_a_sampler_repeats_is_known() -> None:
    dataset = TensorDataset(torch.arange(5))
    ranks = []
    for rank in range(2):
        sampler = DistributedSampler(dataset, 2, rank, shuffle=False)
        loader = DataLoader(dataset, 2, sampler=sampler)
        ranks.append([batch[0].tolist() for batch in loader] + positions(loader, torch.arange(3)).tolist())
    assert ranks == [[[0, 2], [4], 0, 2, 4], [[1, 3], [0], 1, 3, -1]]
    assert positions(DataLoader(dataset, 2), torch.tensor([2, 3])).tolist() == [2, 3]


def test_what_ranks_have_seen_is_put_in_order_and_repeats_and_unknown_targets_are_left_out() -> None:
    def rows(places: list[int], target: list[int]) -> Rows:
        values = torch.tensor(places, dtype=torch.float32)[:, None].expand(-1, 3)
        return Rows(torch.tensor(places), Answer(values), torch.tensor(target))

    joined = _joined([rows([0, 2], [0, 2]), rows([4], [-100]), rows([1, 3], [1, 0]), rows([-1], [0])], MULTICLASS)
    assert joined.answer.values[:, 0].tolist() == [0, 1, 2, 3]
    assert joined.targets.tolist() == [0, 1, 2, 0]
