"""recurrent-init: what it sets, what it leaves alone, and that nothing else moves."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import lightning.pytorch
import pytest
import pytorch_lightning
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_rules import RecurrentInit, Severity

HIDDEN = 32


def fit(net: nn.Module, rule: RecurrentInit, L: Any = lightning.pytorch, ckpt_path: Any = None, **options: Any) -> Any:
    """Train one epoch; the model keeps its weights as they were when training started."""

    class Model(L.LightningModule):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.net, self.at_start = net, {}
            self.scale = nn.Parameter(torch.ones(()))  # moves even where the net is frozen

        def on_train_start(self) -> None:  # comes after the callbacks
            self.at_start = {name: value.clone() for name, value in self.net.state_dict().items()}

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            out = self.net(batch[0] if isinstance(self.net, nn.RNNBase) else batch[0][:, 0])
            out = out[0] if isinstance(out, tuple) else out
            return self.scale * out.square().mean()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.1)

    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = L.Trainer(accelerator="cpu", callbacks=[rule], **{**quiet, "max_epochs": 1, **options})
    model = Model()
    trainer.fit(model, DataLoader(TensorDataset(torch.ones(8, 5, 6)), 4), ckpt_path=ckpt_path)
    return model, trainer


def gates(weight: Tensor) -> list[Tensor]:
    return list(weight.split(HIDDEN))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("L", [lightning.pytorch, pytorch_lightning], ids=lambda L: L.__name__)
@pytest.mark.parametrize(
    ("make", "matrices"),
    [
        (lambda: nn.LSTM(6, HIDDEN, num_layers=2, bidirectional=True, batch_first=True), 16),
        (lambda: nn.GRU(6, HIDDEN, batch_first=True), 3),
        (lambda: nn.RNN(6, HIDDEN, batch_first=True, nonlinearity="relu"), 1),
        (lambda: nn.LSTMCell(6, HIDDEN), 4),
        (lambda: nn.GRUCell(6, HIDDEN, bias=False), 3),
    ],
    ids=["lstm", "gru", "rnn", "lstm-cell", "gru-cell"],
)
def test_every_gate_is_orthogonal_and_nothing_else_moves(L: Any, make: Any, matrices: int) -> None:
    net = make()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    rule = RecurrentInit()
    model, _ = fit(net, rule, L)
    blocks = [block for name, value in model.at_start.items() if "weight_hh" in name for block in gates(value)]
    assert len(blocks) == matrices
    for block in blocks:
        torch.testing.assert_close(block @ block.T, torch.eye(HIDDEN), atol=1e-5, rtol=0)
    assert len({float(block[0, 0]) for block in blocks}) == matrices, "each gate has a matrix of its own"
    lstm = isinstance(net, (nn.LSTM, nn.LSTMCell))
    for name, value in model.at_start.items():
        if "bias" in name and lstm:
            forget = value[HIDDEN : 2 * HIDDEN]
            assert forget.eq(1.0 if "bias_ih" in name else 0.0).all()
            kept = torch.ones(len(value), dtype=torch.bool)
            kept[HIDDEN : 2 * HIDDEN] = False
            assert torch.equal(value[kept], before[name][kept])
        elif "weight_hh" not in name:
            assert torch.equal(value, before[name]), name
    (finding,) = rule.findings
    assert finding.severity is Severity.INFO
    assert finding.message == (
        f"Set the recurrent weights of `net` ({type(net).__name__}) gate by gate to orthogonal"
        + (", the forget gates' bias to 1." if lstm else ".")
    )


@pytest.mark.filterwarnings("ignore")
def test_sparse_has_its_radius_and_fifteen_connections_a_unit() -> None:
    model, _ = fit(nn.GRU(6, HIDDEN, batch_first=True), RecurrentInit(method="sparse", spectral_radius=1.1))
    for block in gates(model.at_start["weight_hh_l0"]):
        assert block.ne(0).sum(1).tolist() == [15] * HIDDEN
        assert float(torch.linalg.eigvals(block).abs().max()) == pytest.approx(1.1, rel=1e-4)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", ["orthogonal", "sparse"])
def test_projections(method: Any) -> None:
    model, _ = fit(nn.LSTM(6, HIDDEN, proj_size=20, batch_first=True), RecurrentInit(method=method))
    projection = model.at_start["weight_hr_l0"]  # [20, 32]
    for block in gates(model.at_start["weight_hh_l0"]):  # [32, 20]
        if method == "orthogonal":
            torch.testing.assert_close(block.T @ block, torch.eye(20), atol=1e-5, rtol=0)
            torch.testing.assert_close(projection @ projection.T, torch.eye(20), atol=1e-5, rtol=0)
        else:
            assert block.ne(0).sum(1).tolist() == [15] * HIDDEN
            assert float(torch.linalg.eigvals(projection @ block).abs().max()) == pytest.approx(1.2, rel=1e-4)


def trained() -> nn.LSTM:
    net = nn.LSTM(6, HIDDEN, batch_first=True)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    for _ in range(5):
        net(torch.randn(4, 5, 6))[0].square().mean().backward()
        optimizer.step()
    return net


def frozen() -> nn.LSTM:
    return nn.LSTM(6, HIDDEN, batch_first=True).requires_grad_(False)


def orthogonal_already() -> nn.LSTM:
    net = nn.LSTM(6, HIDDEN, batch_first=True)
    nn.init.orthogonal_(net.weight_hh_l0)
    return net


def parametrised() -> nn.LSTM:
    net = nn.LSTM(6, HIDDEN, batch_first=True)
    nn.utils.parametrizations.weight_norm(net, "weight_hh_l0")
    return net


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (trained, "they are not as torch draws them"),
        (orthogonal_already, "they are not as torch draws them"),
        (frozen, "they are frozen or computed from other parameters"),
        (parametrised, "they are frozen or computed from other parameters"),
        (lambda: nn.Linear(6, 3), "the module has no recurrent layer"),
    ],
)
def test_left_alone(make: Any, reason: str) -> None:
    net = make()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    rule = RecurrentInit()
    model, _ = fit(net, rule)
    assert all(torch.equal(model.at_start[name], before[name]) for name in before)
    (finding,) = rule.findings
    assert finding.severity is Severity.INFO
    assert reason in finding.message


@pytest.mark.filterwarnings("ignore")
def test_a_forget_bias_that_the_author_set_stays() -> None:
    net = nn.LSTM(6, HIDDEN, batch_first=True)
    nn.init.constant_(net.bias_ih_l0, 2.0)
    rule = RecurrentInit()
    model, _ = fit(net, rule)
    assert model.at_start["bias_ih_l0"].eq(2.0).all()
    assert rule.findings[0].message.endswith("gate by gate to orthogonal.")
    assert rule.findings[0].evidence == {"recurrent_weights_set": True, "forget_bias_set": False}


@pytest.mark.filterwarnings("ignore")
def test_named_layers_are_set_whatever_they_hold() -> None:
    model, _ = fit(trained(), RecurrentInit(layers=["net"]))
    block = gates(model.at_start["weight_hh_l0"])[0]
    torch.testing.assert_close(block @ block.T, torch.eye(HIDDEN), atol=1e-5, rtol=0)


@pytest.mark.filterwarnings("ignore")
def test_a_resumed_run_goes_on(tmp_path: Path) -> None:
    first, trainer = fit(nn.GRU(6, HIDDEN, batch_first=True), RecurrentInit())
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    end = {name: value.clone() for name, value in first.net.state_dict().items()}
    rule = RecurrentInit(layers=["net"])
    model, _ = fit(nn.GRU(6, HIDDEN, batch_first=True), rule, ckpt_path=tmp_path / "a.ckpt", max_epochs=2)
    assert all(torch.equal(model.at_start[name], end[name]) for name in end)
    assert "the run is resumed" in rule.findings[-1].message


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", ["orthogonal", "sparse"])
def test_the_users_seed_decides_and_the_global_stream_stays(method: Any) -> None:
    starts, draws = [], []
    for rule in (RecurrentInit(method), RecurrentInit(method), RecurrentInit(layers=[])):
        torch.manual_seed(5)
        model, _ = fit(nn.GRU(6, HIDDEN, batch_first=True), rule)
        starts.append(model.at_start["weight_hh_l0"])
        draws.append(float(torch.rand(())))
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])
    assert draws[0] == draws[2]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"method": "identity"}, "Expected `method` to be 'orthogonal' or 'sparse', but got 'identity'."),
        ({"spectral_radius": 0.0}, "Expected `spectral_radius` to be above 0, but got 0.0; 1.2 is usual."),
    ],
)
def test_wrong_arguments(arguments: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        RecurrentInit(**arguments)


@pytest.mark.filterwarnings("ignore")
def test_a_wrong_name_of_a_layer() -> None:
    with pytest.raises(ValueError, match=r"There is no layer 'rnn' of the kinds RNNBase, .* it has 'net'"):
        fit(nn.GRU(6, HIDDEN, batch_first=True), RecurrentInit(layers=["rnn"]))
