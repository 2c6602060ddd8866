"""Trees of tensors come to the host as they are."""

from __future__ import annotations

import pytest
import torch

from lightning_rules.host_copy import HostCopy


def test_a_tree_keeps_its_shape() -> None:
    tree = {"norms": [torch.ones(3), torch.tensor(2.0)], "step": 7, "nothing": None}
    copied = HostCopy(tree).get()
    assert copied["step"] == 7
    assert copied["nothing"] is None
    assert torch.equal(copied["norms"][0], torch.ones(3))
    assert copied["norms"][1].item() == 2.0


def test_graphs_are_let_go() -> None:
    weight = torch.ones(2, requires_grad=True)
    assert not HostCopy(weight.sum()).get().requires_grad


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_tensors_arrive_late() -> None:
    copy = HostCopy([torch.arange(4, device="cuda")])
    assert copy.late
    assert copy.get()[0].tolist() == [0, 1, 2, 3]
