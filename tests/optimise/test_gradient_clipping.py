"""gradient-clipping: as torch clips, and what is not finite moves nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from timm.utils.agc import adaptive_clip_grad
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, TensorDataset

from lightning_rules import GradientClipping, Severity
from lightning_rules.gradient_norms import clip_coefficient, norms_of, unit_coefficients
from lightning_rules.optimise import clip_tally
from lightning_rules.optimise.clip_tally import StepsSeen, judge_budget, judge_optimizer

QUIET = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
ADAM = {"cls": torch.optim.AdamW, "lr": 1e-2, "weight_decay": 0.1}
SGD = {"cls": torch.optim.SGD, "lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}


class Recurrent(L.LightningModule):
    """A GRU on eight steps; batches named in ``bad`` have the loss multiplied by NaN."""

    def __init__(self, optimizer: dict[str, Any] = ADAM, bad: tuple[int, ...] = (), dead: str = "nan") -> None:
        super().__init__()
        self.rnn, self.head = nn.GRU(4, 8, batch_first=True), nn.Linear(8, 3)
        self.optimizer, self.bad, self.factor = dict(optimizer), bad, float(dead)
        self.calls = 0
        self.seen: list[Any] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = 3 * F.cross_entropy(self.head(self.rnn(batch[0])[0][:, -1]), batch[1])
        self.calls += 1
        return loss * (self.factor if self.calls - 1 in self.bad else 1)

    def on_before_optimizer_step(self, optimizer: Any) -> None:  # comes after the callbacks
        norms = [parameter.grad.norm() for parameter in self.parameters() if parameter.grad is not None]
        self.seen.append(float(torch.stack(norms).norm()) if norms else None)

    def configure_optimizers(self) -> Any:
        options = dict(self.optimizer)
        return options.pop("cls")(self.parameters(), **options)


class Adversaries(Recurrent):
    """Two optimisers by hand, the second stepping every other batch, over gradients it accumulated."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        first, second = self.optimizers()
        first.zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx))
        first.step()
        if batch_idx % 2:
            second.step()
            second.zero_grad()

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.rnn.parameters(), 1e-2), torch.optim.SGD(self.head.parameters(), 0.1)


class Keep(L.Callback):
    """Weights and the optimiser's state after each batch."""

    def __init__(self) -> None:
        self.after: list[Any] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        states = [value for state in trainer.optimizers[0].state.values() for value in state.values()]
        tensors = [*pl_module.parameters(), *(value for value in states if isinstance(value, Tensor))]
        self.after.append([tensor.detach().clone() for tensor in tensors])


def loader(count: int = 64) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(0)
    return DataLoader(TensorDataset(torch.randn(count, 8, 4, generator=generator), torch.arange(count) % 3), 8)


def fit(model: Any, *callbacks: Any, ckpt_path: Any = None, data: Any = None, **options: Any) -> L.Trainer:
    torch.manual_seed(1)
    for part in model.modules():
        if hasattr(part, "reset_parameters"):
            part.reset_parameters()
    options = {**QUIET, "max_epochs": 2, "log_every_n_steps": 4, **options}
    trainer = L.Trainer(accelerator="cpu", callbacks=list(callbacks), **options)
    trainer.fit(model, data or loader(), ckpt_path=ckpt_path)
    return trainer


def weights(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return len(first) == len(second) and all(map(torch.equal, first, second))


@pytest.mark.parametrize("optimizer", [ADAM, SGD, {**ADAM, "fused": True}], ids=["adamw", "sgd", "fused"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_max_norm_is_lightnings_own_to_the_bit(optimizer: dict[str, Any], accumulate: int) -> None:
    ours, theirs, free = Recurrent(optimizer), Recurrent(optimizer), Recurrent(optimizer)
    rule = GradientClipping(max_norm=0.5)
    fit(ours, rule, accumulate_grad_batches=accumulate)
    fit(theirs, gradient_clip_val=0.5, accumulate_grad_batches=accumulate)
    fit(free, accumulate_grad_batches=accumulate)
    assert torch.equal(weights(ours), weights(theirs))
    assert not torch.allclose(weights(ours), weights(free), atol=1e-3)
    assert max(ours.seen) <= 0.5 + 1e-5 < max(free.seen)
    end = rule.findings[-1].evidence
    assert (end["steps"], end["skipped_share"]) == (16 / accumulate, 0)
    assert end["clipped_share"] == pytest.approx(np.mean(np.array(theirs.seen) > 0.5))
    assert end["norm_max"] == pytest.approx(max(theirs.seen), rel=1e-5)  # theirs are seen before Lightning clips


def test_bfloat16_autocast() -> None:
    ours, theirs = Recurrent(), Recurrent()
    fit(ours, GradientClipping(max_norm=0.5), precision="bf16-mixed")
    fit(theirs, gradient_clip_val=0.5, precision="bf16-mixed")
    assert torch.equal(weights(ours), weights(theirs))


def scaled(scale: float = 1024.0) -> MixedPrecision:
    return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=scale))


def test_float16_clips_unscaled_gradients() -> None:
    ours, theirs, fused = Recurrent(), Recurrent(), Recurrent({**ADAM, "fused": True})
    rule = GradientClipping(max_norm=0.5)
    fit(ours, rule, plugins=[scaled()])
    fit(theirs, gradient_clip_val=0.5, plugins=[scaled()])
    assert torch.equal(weights(ours), weights(theirs))
    assert 0.5 < rule.findings[-1].evidence["norm_max"] < 20
    fit(fused, GradientClipping(max_norm=0.5), plugins=[scaled()])  # which Lightning refuses to clip
    assert max(fused.seen) == pytest.approx(0.5 * 1024, rel=1e-3)
    torch.testing.assert_close(weights(fused), weights(ours), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("fused", [False, True])
def test_float16_leaves_the_scaler_its_search(fused: bool) -> None:
    model, rule = Recurrent({**ADAM, "fused": fused}), GradientClipping(max_skipped=20)
    plugin = scaled(2.0**30)
    fit(model, rule, plugins=[plugin], max_epochs=4)
    end = rule.findings[-1]
    assert plugin.scaler.get_scale() < 2.0**20
    assert 0 < end.evidence["skipped_share"] * 32 <= 16
    assert end.severity is Severity.INFO
    assert weights(model).isfinite().all()


@pytest.mark.parametrize("optimizer", [ADAM, SGD, {**ADAM, "fused": True}, {**SGD, "fused": True}],
                         ids=["adamw", "sgd", "fused-adamw", "fused-sgd"])  # fmt: skip
@pytest.mark.parametrize("bad", [0, 5])
@pytest.mark.parametrize("dead", ["nan", "inf"])
def test_a_skipped_step_changes_nothing(optimizer: dict[str, Any], bad: int, dead: str) -> None:
    keep, rule, model = Keep(), GradientClipping(), Recurrent(optimizer, (bad,), dead)
    trainer = fit(model, rule, keep)
    assert all(tensor.isfinite().all() for after in keep.after for tensor in after)
    changed = [not same(before, after) for before, after in zip(keep.after, keep.after[1:], strict=False)]
    if bad:
        assert changed == [step + 1 != bad for step in range(15)]
    else:  # the fit without the first batch
        assert all(changed)
    assert rule.findings[-1].evidence["skipped_share"] == 1 / 16
    assert rule.findings[-1].severity is Severity.WARNING  # more than 1% of so short a run
    assert not hasattr(trainer.optimizers[0], "found_inf")


def test_after_a_skipped_step_the_run_goes_on_as_without_it() -> None:
    for optimizer in (ADAM, SGD, {**ADAM, "fused": True}, {**SGD, "fused": True}):
        skipping, plain = Recurrent(optimizer, bad=(0,)), Recurrent(optimizer)
        fit(skipping, GradientClipping(), max_epochs=1)
        fit(plain, GradientClipping(), max_epochs=1, data=DataLoader(list(loader())[1:], None))
        assert torch.equal(weights(skipping), weights(plain)), optimizer


def test_without_the_rule_one_nan_destroys_the_weights() -> None:
    model = Recurrent(bad=(5,))
    fit(model, gradient_clip_val=0.5)
    assert not weights(model).isfinite().any()


def test_accumulated_gradients_are_skipped_together() -> None:
    model, rule = Recurrent(bad=(4,)), GradientClipping()
    fit(model, rule, accumulate_grad_batches=4, max_epochs=1)
    assert [norm is None for norm in model.seen] == [False, True]
    assert weights(model).isfinite().all()


class Synchronisations(TorchDispatchMode):
    """Counts what makes the host wait for a device."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        waits = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "_to_copy.cpu")
        self.count += func.overloadpacket.__name__ in waits
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("method", ["max-norm", "percentile", "agc"])
def test_fused_optimisers_need_no_synchronisation(monkeypatch: pytest.MonkeyPatch, method: Any) -> None:
    hook, counts = GradientClipping.on_before_optimizer_step, []

    def watched(*args: Any) -> None:
        with Synchronisations() as mode:
            hook(*args)
        counts.append(mode.count)

    monkeypatch.setattr(GradientClipping, "on_before_optimizer_step", watched)
    fit(Recurrent({**ADAM, "fused": True}), GradientClipping(method), log_every_n_steps=6)
    assert counts == [0, 0, 0, 0, 0, 1] * 2 + [0] * 4  # one look at the budget as often as the run logs
    counts.clear()
    fit(Recurrent(ADAM), GradientClipping(method), log_every_n_steps=6)
    assert counts == [1, 1, 1, 1, 1, 2] * 2 + [1] * 4  # and one number a step for optimisers that are not fused


def test_manual_optimisation_of_two_optimisers() -> None:
    model, rule = Adversaries(bad=(3,)), GradientClipping(max_norm=0.3)
    trainer = fit(model, rule)
    assert weights(model).isfinite().all()
    first, second = (finding.evidence for finding in rule.findings[-2:])
    assert (first["steps"], second["steps"]) == (16, 8)
    assert (first["skipped_share"], second["skipped_share"]) == (1 / 16, 1 / 8)
    assert {"gradient_norm_0", "gradient_norm_1", "gradient_clipped_share_1"} <= set(trainer.callback_metrics)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("on_error", ["warn", "raise"])
def test_the_budget_stops_the_run_and_names_the_parameters(fused: bool, on_error: Any) -> None:
    model, rule = Recurrent({**ADAM, "fused": fused}, tuple(range(3, 40))), GradientClipping(max_skipped=4)
    rule.on_error = on_error
    if on_error == "raise":
        with pytest.raises(RuntimeError, match="not finite in 5 steps in a row"):
            fit(model, rule, log_every_n_steps=2)
    else:
        trainer = fit(model, rule, log_every_n_steps=2, max_epochs=5)
        assert trainer.global_step == 8
    error = next(finding for finding in rule.findings if finding.severity is Severity.ERROR)
    assert "those of 6 of 6 parameters, the last of them `head.bias`" in error.message
    assert weights(model).isfinite().all()


def test_the_parameter_before_the_broken_operation_is_named() -> None:
    class Broken(Recurrent):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            state = self.rnn(batch[0])[0][:, -1]
            return F.cross_entropy(self.head(state), batch[1]) + (state * 0).square().sum().sqrt()  # 0 / 0 backwards

    rule = GradientClipping(max_skipped=0)
    fit(Broken(), rule)
    error = next(finding for finding in rule.findings if finding.severity is Severity.ERROR)
    assert "those of 4 of 6 parameters, the last of them `rnn.bias_hh_l0`" in error.message


def test_a_few_bad_steps_apart_do_not_stop_the_run() -> None:
    rule = GradientClipping(max_skipped=1)
    trainer = fit(Recurrent(bad=(1, 3, 5, 7, 9)), rule)
    assert trainer.global_step == 16
    assert all(finding.severity < Severity.ERROR for finding in rule.findings)


def test_refuses_to_clip_twice() -> None:
    model, rule = Recurrent(), GradientClipping("max-norm")
    with pytest.raises(MisconfigurationException, match=r"remove `gradient_clip_val` .*, or GradientClipping"):
        fit(model, rule, gradient_clip_val=0.5)
    assert model.calls == 0


def test_auto_leaves_clipping_to_those_who_clip() -> None:
    class Own(Recurrent):
        def configure_gradient_clipping(self, *args: Any, **kwargs: Any) -> None:
            self.clip_gradients(args[0], 0.1, "norm")

    for model, options, reason in (
        (Recurrent(), {"gradient_clip_val": 0.5}, "Trainer(gradient_clip_val=0.5) clips already"),
        (Own(), {}, "its own `configure_gradient_clipping`"),
    ):
        rule = GradientClipping(max_norm=1e-4)
        fit(model, rule, **options)
        assert [finding.severity for finding in rule.findings] == [Severity.INFO]
        assert reason in rule.findings[0].message
        assert max(model.seen) > 0.5


@pytest.mark.parametrize("given", [{"method": "percentile"}, {"max_norm": 0.2}, {"on_error": "raise"}])
@pytest.mark.parametrize("first", [True, False])
def test_the_default_stands_aside_for_one_with_arguments(given: dict[str, Any], first: bool) -> None:
    default, asked, alone = GradientClipping(), GradientClipping(**given), GradientClipping(**given)
    both, one = Recurrent(), Recurrent()
    fit(both, *((default, asked) if first else (asked, default)))
    fit(one, alone)
    assert both.seen == one.seen
    assert [finding.message.partition(": ")[2][:24] for finding in default.findings] == ["another GradientClipping"]
    assert asked.findings == alone.findings


def test_auto_needs_recurrent_layers() -> None:
    class Plain(Recurrent):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = nn.Identity(), nn.Linear(4, 3)  # type: ignore[assignment]

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return 30 * F.cross_entropy(self.head(batch[0][:, 0]), batch[1])

    rule, asked = GradientClipping(), GradientClipping("max-norm")
    model = Plain()
    fit(model, rule)
    assert [finding.message.partition(";")[0] for finding in rule.findings] == [
        "Does not apply: the module has no recurrent layers"
    ]
    assert max(model.seen) > 1
    model.seen.clear()
    fit(model, asked)
    assert max(model.seen) <= 1 + 1e-5


def test_lbfgs_is_left_alone() -> None:
    rule = GradientClipping("max-norm")
    fit(Recurrent({"cls": torch.optim.LBFGS, "max_iter": 2}), rule, max_steps=2)
    assert "LBFGS estimates curvature" in rule.findings[0].message


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"method": "value"}, "`method` to be one of 'auto', 'max-norm', 'percentile', 'agc', but got 'value'"),
        ({"max_norm": 0}, "`max_norm` to be above 0"),
        ({"percentile": 101}, "`percentile` to be above 0 and at most 100"),
        ({"agc_factor": -1}, "`agc_factor` to be above 0"),
        ({"max_skipped": -1}, "`max_skipped` to be a whole number"),
    ],
)
def test_wrong_arguments(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        GradientClipping(**options)


def test_percentile_is_autoclip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip_tally, "WINDOW", 5)
    model, rule = Recurrent(bad=(4,)), GradientClipping("percentile", percentile=30)
    norms: list[float] = []

    class Before(L.Callback):  # stands before the rule
        def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            norms.append(float(torch.stack([p.grad.norm() for p in pl_module.parameters()]).norm()))

    fit(model, Before(), rule)
    finite = [norm for norm in norms if np.isfinite(norm)]
    expected = [min(norm, np.percentile(finite[max(0, i - 4) : i + 1], 30)) for i, norm in enumerate(finite)]
    assert [norm for norm in model.seen if norm is not None] == pytest.approx(expected, rel=1e-4)
    assert sum(a < b - 1e-6 for a, b in zip(expected, finite, strict=True)) > 3


def test_a_resumed_run_clips_at_the_same_thresholds() -> None:
    def run(epochs: int, ckpt_path: Any = None) -> tuple[Any, GradientClipping, L.Trainer]:
        model, rule = Recurrent(bad=(5,) if ckpt_path is None else ()), GradientClipping("percentile", percentile=30)
        return model, rule, fit(model, rule, max_epochs=epochs, ckpt_path=ckpt_path)

    whole, at_end, _ = run(3)
    _, _, first = run(1)
    first.save_checkpoint("first.ckpt")
    resumed, rule, _ = run(3, "first.ckpt")
    assert torch.equal(weights(whole), weights(resumed))
    assert rule.findings[-1].evidence == at_end.findings[-1].evidence
    assert rule.findings[-1].evidence["steps"] == 24


def test_agc_is_timms() -> None:
    torch.manual_seed(0)
    shapes = [(6, 5), (7,), (4, 3, 2, 2), (3, 1), ()]
    parameters = [nn.Parameter(torch.randn(shape) * scale) for shape in shapes for scale in (1e-5, 1.0)]
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter) * 0.02
    ours = [parameter.grad.clone() for parameter in parameters]
    coefficients = unit_coefficients(parameters, ours, 0.01)
    torch._foreach_mul_(ours, coefficients)
    adaptive_clip_grad(parameters, 0.01)
    assert 0 < sum(int((coefficient < 1).sum()) for coefficient in coefficients) < sum(c.numel() for c in coefficients)
    for own, parameter in zip(ours, parameters, strict=True):
        torch.testing.assert_close(own, parameter.grad, rtol=1e-6, atol=0)


def test_agc_leaves_the_head_out() -> None:
    model, rule = Recurrent(), GradientClipping("agc", agc_factor=1e-3)
    ratios = []

    class After(L.Callback):
        def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            for layer in (pl_module.rnn.weight_hh_l0, pl_module.head.weight):
                ratios.append(float((layer.grad.norm(dim=1) / layer.detach().norm(dim=1)).max()))

    fit(model, rule, After())
    assert "`head` left out" in rule.findings[0].message
    assert max(ratios[::2]) <= 1e-3 * (1 + 1e-4) < min(ratios[1::2])
    assert rule.findings[-1].evidence["clipped_share"] == 1


def test_sparse_and_half_precision_gradients() -> None:
    embedding = nn.Embedding(10, 4, sparse=True)
    embedding(torch.tensor([1, 1, 2])).sum().backward()
    dense = embedding.weight.grad.to_dense()
    from lightning_rules.gradient_norms import gradients_of, scale_all

    gradients = gradients_of([embedding.weight])
    assert float(norms_of(gradients, dense.device)) == pytest.approx(float(dense.norm()))
    scale_all(gradients, torch.tensor(0.5))
    torch.testing.assert_close(embedding.weight.grad.to_dense(), dense / 2)
    large = torch.full((100,), 6e4, dtype=torch.float16)
    assert float(norms_of([large, None], large.device)[0]) == pytest.approx(6e5, rel=1e-3)


@pytest.mark.parametrize(("skipped", "scaler", "severity"), [
    (0, False, Severity.INFO), (10, False, Severity.INFO), (11, False, Severity.WARNING),
    (16, True, Severity.INFO), (17, True, Severity.WARNING),
])  # fmt: skip
def test_judgement(skipped: int, scaler: bool, severity: Severity) -> None:
    ranks = [StepsSeen(1000, 300, skipped, 500.0, 7.0), StepsSeen(1000, 100, skipped, 500.0, 9.0)]
    found = judge_optimizer(ranks, scaler)
    assert found.severity is severity
    assert found.message.startswith(f"Clipped 20.0% and skipped {skipped / 10:.1f}% of 1,000 steps")
    assert found.evidence["norm_max"] == 9
    assert found.evidence["norm_mean"] == pytest.approx(500 / (1000 - skipped))


def test_judgement_of_the_budget() -> None:
    found = judge_budget(6, 5, [["a", "b"], ["b"]], 9)
    assert found.severity is Severity.ERROR
    assert "6 steps in a row (those of 2 of 9 parameters, the last of them `b`), and at most 5" in found.message
    assert "(their norm)" in judge_budget(6, 5, [[], []], 9).message


def test_coefficient() -> None:
    got = clip_coefficient(torch.tensor([0.5, 2.0, 1e9]), 1.0)
    torch.testing.assert_close(got, torch.tensor([1.0, 0.5, 1e-9]), rtol=1e-5, atol=0)


PL = """
import pytorch_lightning as pl, torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from pytorch_lightning.demos.boring_classes import BoringModel
from lightning_rules import GradientClipping, Severity
class Model(BoringModel):
    def __init__(self):
        super().__init__()
        self.rnn = torch.nn.LSTM(32, 32)
    def forward(self, x):
        return self.layer(self.rnn(x)[0])
    def training_step(self, batch, batch_idx):
        return {"loss": self.step(batch) * (float("nan") if batch_idx == 2 else 1)}
options = dict(max_epochs=1, limit_train_batches=5, accelerator="cpu", logger=False, enable_checkpointing=False)
rule, model = GradientClipping(max_norm=1e-3), Model()
pl.Trainer(**options, callbacks=[rule]).fit(model)
assert rule.findings[-1].evidence["skipped_share"] == 0.2, rule.findings
assert all(p.isfinite().all() for p in model.parameters())
try:
    pl.Trainer(**options, callbacks=[GradientClipping("agc")], gradient_clip_val=1).fit(Model())
except MisconfigurationException as error:
    print("refused")
"""


def test_pytorch_lightning(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", PL], capture_output=True, text=True, timeout=120)
    assert "refused" in done.stdout, done.stderr[-3000:]
