"""activation-health: planted bugs and their healthy twins in real fits, and no trace of the rule."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as L
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_rules import ActivationHealth, Severity

QUIET = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)


class Model(L.LightningModule):
    """Four clusters; what fails is told."""

    def __init__(self, net: nn.Module, rate: float = 0.05, bias: float = 0.0, bad: int | None = None) -> None:
        super().__init__()
        self.net, self.rate, self.bias, self.bad = net, rate, bias, bad

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        if self.global_step == self.bad:
            with torch.no_grad():
                self.net[2].weight[0, 0] = torch.nan
        loss = F.cross_entropy(self.net(x), y)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), self.rate, momentum=0.9)


def data() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(1024) % 4
    inputs = torch.randn(1024, 8, generator=generator) + 2 * F.one_hot(labels, 8)
    return DataLoader(TensorDataset(inputs, labels), 16)


def mlp(act: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(8, 32), act(), nn.Linear(32, 32), act(), nn.Linear(32, 4))


def fit(model: Any, *rules: Any, ckpt_path: Any = None, **options: Any) -> L.Trainer:
    trainer = L.Trainer(accelerator="cpu", callbacks=list(rules), **{**QUIET, "max_epochs": 2, **options})
    trainer.fit(model, data(), ckpt_path=ckpt_path)
    return trainer


def found(rule: ActivationHealth) -> dict[str, Any]:
    return {finding.rule: finding for finding in rule.findings}


@pytest.mark.parametrize("act", [nn.ReLU, nn.Tanh, nn.GELU])
def test_a_healthy_run(act: type[nn.Module]) -> None:
    rule = ActivationHealth()
    fit(Model(mlp(act)), rule)
    units = "saturated-units" if act is nn.Tanh else "dying-units"
    assert set(found(rule)) == {units, "constant-outputs", "exploding-activations"}
    assert all(finding.severity is Severity.OK for finding in rule.findings)


def test_a_rate_too_high_kills() -> None:
    rule = ActivationHealth()
    fit(Model(mlp(), rate=30.0), rule, max_epochs=4)
    dying = found(rule)["dying-units"]
    assert dying.severity is Severity.WARNING
    assert dying.evidence["start"] < 0.3
    assert dying.step <= 192
    assert "Lower the learning rate" in dying.advice
    assert found(rule)["constant-outputs"].severity is Severity.WARNING


def test_saturated_from_the_start() -> None:
    net = mlp(nn.Tanh)
    with torch.no_grad():
        net[0].weight.mul_(2000)
    rule = ActivationHealth()
    fit(Model(net, rate=1e-3), rule)
    assert found(rule)["saturated-units"].severity is Severity.WARNING
    assert "tanh in `net.1`" in found(rule)["saturated-units"].message


def test_the_first_layer_that_is_not_finite_is_named() -> None:
    rule = ActivationHealth()
    fit(Model(mlp(), bad=21), rule, max_steps=60)
    broken = found(rule)["non-finite-activations"]
    assert broken.severity is Severity.ERROR
    # what entered the weights at step 21 has spoilt all of them by the next sample
    assert "at batch 21" in broken.message
    assert "`net.2` is the first layer" in broken.message
    assert "at batch 18 all were finite" in broken.message


class ByHand(Model):
    def __init__(self) -> None:
        super().__init__(mlp())
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx))
        optimizer.step()


@pytest.mark.parametrize("make", [lambda: Model(mlp(nn.SiLU)), ByHand], ids=["automatic", "by_hand"])
def test_no_trace(make: Any) -> None:
    ends = []
    for rules in ([], [ActivationHealth(overhead=0.9)]):
        torch.manual_seed(3)
        model = make()
        trainer = fit(model, *rules)
        ends.append((model.state_dict(), trainer.optimizers[0].state_dict(), torch.get_rng_state()))
        assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())
        assert "training_step" not in vars(model)
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=0)
    assert all(finding.severity is Severity.OK for finding in rules[0].findings)


def test_the_module_is_left_alone_when_the_run_fails_within_a_sample() -> None:
    class Fails(Model):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            if batch_idx == 8:
                raise KeyError("theirs")
            return super().training_step(batch, batch_idx)

    model, rule = Fails(mlp()), ActivationHealth()
    with pytest.raises(KeyError, match="theirs"):
        fit(model, rule)
    assert "training_step" not in vars(model)
    assert not any(part._forward_hooks for part in model.modules())


def test_resumed_windows(tmp_path: Any) -> None:
    first, second = ActivationHealth(), ActivationHealth()
    trainer = fit(Model(mlp()), first, max_epochs=1)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    units, sizes = first.state_dict()["units"], first.state_dict()["sizes"]
    assert units[0]["shares"]
    fit(Model(mlp()), second, ckpt_path=tmp_path / "a.ckpt", max_epochs=2)
    assert second.state_dict()["units"][0]["start"] == units[0]["start"]
    assert second.state_dict()["sizes"]["first"] == sizes["first"], "compared with the first batches of all"


def test_a_compiled_part_is_not_compiled_anew() -> None:
    compiled: list[int] = []

    def backend(graph: Any, inputs: Any) -> Any:
        compiled.append(len(inputs))
        return graph.forward

    torch._dynamo.reset()
    net = mlp()
    inner, rule = nn.Sequential(*net[:2]), ActivationHealth()
    fit(Model(nn.Sequential(torch.compile(inner, backend=backend), *net[2:])), rule)
    assert len(compiled) == 1
    assert "compiled parts" in found(rule)["activation-health"].message
    assert found(rule)["dying-units"].evidence["activations"] == 1
    torch._dynamo.reset()


def test_logged(tmp_path: Any) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path)
    fit(Model(mlp()), ActivationHealth(), logger=logger)
    events = EventAccumulator(logger.log_dir)
    events.Reload()
    assert {"rules/activation_dead/net.1", "rules/activation_rms/net.4"} <= set(events.Tags()["scalars"])
    assert set(events.Tags()["histograms"]) == {"rules/activation_input/net.1", "rules/activation_input/net.3"}
