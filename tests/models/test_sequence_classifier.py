import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_recipe.data import DigitsDataModule
from lightning_recipe.models import SequenceClassifier

CELLS = [(cell, bidirectional) for cell in ("lstm", "gru") for bidirectional in (False, True)]


def _module(cell: str, bidirectional: bool) -> SequenceClassifier:
    return SequenceClassifier(4, 3, hidden_size=6, num_layers=2, cell=cell, bidirectional=bidirectional).eval()


def _batch() -> tuple[Tensor, Tensor]:
    return torch.randn(5, 7, 4), torch.tensor([7, 3, 1, 5, 3])


@pytest.mark.parametrize(("cell", "bidirectional"), CELLS)
def test_padding_changes_neither_logits_nor_gradients(cell: str, bidirectional: bool) -> None:
    module = _module(cell, bidirectional)
    x, length = _batch()
    results = []
    for extra, filler in [(0, 0.0), (4, 0.0), (4, 1e3)]:
        padded = F.pad(x, (0, 0, 0, extra))
        beyond = torch.arange(padded.shape[1]) >= length[:, None]
        padded[beyond] = filler
        padded.requires_grad_()
        module.zero_grad()
        logits = module(padded, length)
        F.cross_entropy(logits, torch.tensor([0, 1, 2, 0, 1])).backward()
        assert padded.grad is not None
        assert (padded.grad[beyond] == 0).all()
        results.append([logits.detach(), padded.grad[:, :7], *(p.grad.clone() for p in module.parameters())])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize(("cell", "bidirectional"), CELLS)
def test_each_sequence_is_read_as_if_alone(cell: str, bidirectional: bool) -> None:
    module = _module(cell, bidirectional)
    x, length = _batch()
    together = module(x, length)
    for i, n in enumerate(length.tolist()):
        torch.testing.assert_close(together[i], module(x[i : i + 1, :n], length[i : i + 1])[0])


def test_the_backward_direction_is_read_at_the_first_step() -> None:
    module = SequenceClassifier(4, 3, hidden_size=6, bidirectional=True, layer_norm=False).eval()
    x = torch.randn(1, 5, 4)
    output, _ = module.encoder.layers[0](x)
    expected = torch.cat([output[:, -1, :6], output[:, 0, 6:]], dim=1)
    torch.testing.assert_close(module.encoder(x, torch.tensor([5])), expected)


def test_the_last_step_matters_and_the_first_one_too() -> None:
    module = _module("lstm", True)
    x, length = _batch()
    x.requires_grad_()
    module(x, length).sum().backward()
    for i, n in enumerate(length.tolist()):
        assert x.grad[i, 0].abs().sum() > 0
        assert x.grad[i, n - 1].abs().sum() > 0


@pytest.mark.parametrize("bidirectional", [False, True])
def test_forget_gate_bias_is_one_in_total(bidirectional: bool) -> None:
    module = SequenceClassifier(4, 3, hidden_size=6, num_layers=2, bidirectional=bidirectional)
    for layer in module.encoder.layers:
        for direction in ("", "_reverse")[: 1 + bidirectional]:
            total = getattr(layer, f"bias_ih_l0{direction}") + getattr(layer, f"bias_hh_l0{direction}")
            assert (total[6:12] == 1).all()
            assert not (total[:6] == 1).any()
    # PyTorch's order of the gates: with every other weight 0, the cell keeps sigmoid(1) of its state.
    lstm = module.encoder.layers[0]
    with torch.no_grad():
        for name, p in lstm.named_parameters():
            gates = p.clone() if "bias" in name else torch.zeros_like(p)
            gates[:6] = gates[12:] = 0
            p.copy_(gates)
    state = torch.ones(2 if bidirectional else 1, 1, 6)
    _, (_, cell) = lstm(torch.zeros(1, 1, 4), (torch.zeros_like(state), state))
    torch.testing.assert_close(cell, torch.full_like(cell, torch.tensor(1.0).sigmoid().item()))


def test_layer_norm_stands_after_each_layer() -> None:
    module = _module("gru", True)
    encoded = module.encoder(*_batch())
    torch.testing.assert_close(encoded.mean(1), torch.zeros(5), atol=1e-5, rtol=0)
    torch.testing.assert_close(encoded.var(1, unbiased=False), torch.ones(5), atol=1e-2, rtol=0)
    assert not any(isinstance(m, torch.nn.LayerNorm) for m in SequenceClassifier(4, 3, layer_norm=False).modules())


@pytest.mark.parametrize(("cell", "bidirectional"), [("lstm", True), ("gru", False)])
def test_learns_the_rows_of_digits(cell: str, bidirectional: bool, make_trainer) -> None:
    module = SequenceClassifier(8, 10, hidden_size=32, cell=cell, bidirectional=bidirectional, lr=5e-3)
    data = DigitsDataModule(form="rows")
    trainer = make_trainer(max_epochs=4)
    trainer.fit(module, datamodule=data)
    metrics = trainer.test(module, datamodule=data, verbose=False)[0]
    assert metrics["test/accuracy"] > 0.85
    assert metrics["test/loss"] < 1
    again = trainer.test(module, datamodule=data, verbose=False)[0]
    assert again == metrics


def test_checkpoint_of_another_cell_is_refused(make_trainer, tmp_path) -> None:
    data = DigitsDataModule(form="rows")
    trainer = make_trainer(max_epochs=1, limit_train_batches=1, limit_val_batches=1)
    trainer.fit(SequenceClassifier(8, 10, hidden_size=8), datamodule=data)
    trainer.save_checkpoint(tmp_path / "lstm.ckpt")
    assert SequenceClassifier.load_from_checkpoint("lstm.ckpt").hparams["hidden_size"] == 8
    gru = SequenceClassifier(8, 10, hidden_size=8, cell="gru")
    with pytest.raises(ValueError, match=r"another architecture.*4 of another shape: encoder.layers.0.weight_ih_l0"):
        make_trainer().test(gru, datamodule=data, ckpt_path="lstm.ckpt", verbose=False)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="cell='rnn' was given"):
        SequenceClassifier(4, 3, cell="rnn")
    with pytest.raises(ValueError, match="hidden_size=0 was given"):
        SequenceClassifier(4, 3, hidden_size=0)
    with pytest.raises(ValueError, match="num_classes=1 was given"):
        SequenceClassifier(4, 1)


def test_labels_out_of_range(make_trainer) -> None:
    with pytest.raises(ValueError, match="num_classes=9, but DigitsDataModule has 10 classes"):
        make_trainer(max_epochs=1).fit(SequenceClassifier(8, 9), datamodule=DigitsDataModule(form="rows"))
