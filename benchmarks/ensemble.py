"""What an ensemble of five costs: `MemberCalls` beside a plain loop over the members, and beside Ensemble-Pytorch.

    python benchmarks/ensemble.py             print a table
    python benchmarks/ensemble.py --record    also write it to benchmarks/RESULTS.md

Networks of several kinds answer batches of 1 to 256 on the CPU, with one thread and with two. The loop is
`torch.stack([member(x) for member in members])`; each has members of its own, and they take turns in one process, who
comes first changing with each turn; the best of `--rounds` turns counts, so that what others do on the machine does
not. Ensemble-Pytorch's `VotingClassifier` also takes the softmax and the average, and so do the two others for that
comparison. Without torchensemble on the path its column is left out (`pip install --target DIR --no-deps
torchensemble`, and `PYTHONPATH=DIR`).
"""

import importlib.util
import time
from collections.abc import Callable
from typing import Any

import timm
import torch
from digit_networks import convolutional
from results import command_line, origin, quietly
from torch import Tensor, nn

from lightning_recipe.models.sequence_classifier import SequenceClassifier
from lightning_rules.combine.member_calls import MemberCalls

HEADING = "Ensemble of five"
MEMBERS, BATCHES, THREADS = 5, (1, 8, 64, 256), (1, 2)
PEER = importlib.util.find_spec("torchensemble") is not None
Networks = dict[str, tuple[Callable[[], nn.Module], Callable[[int], tuple[Tensor, ...]]]]


class LSTM(nn.Module):
    """An LSTM of 64 units and a linear layer on its last output."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent, self.head = nn.LSTM(8, 64, batch_first=True), nn.Linear(64, 10)

    def forward(self, rows: Tensor) -> Tensor:
        """Logits [N, 10] of digits [N, 8, 8]."""
        return self.head(self.recurrent(rows)[0][:, -1])


def small() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))


def deeper() -> nn.Module:
    return nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))


def images(*shape: int) -> Callable[[int], tuple[Tensor]]:
    return lambda count: (torch.randn(count, *shape),)


NETWORKS: Networks = {
    "perceptron 64-128-10": (small, images(64)),
    "perceptron 20-64-64-2": (deeper, images(20)),
    "2 convolutions, 8 x 8": (convolutional, images(1, 8, 8)),
    "LSTM, 8 steps": (LSTM, images(8, 8)),
    "`SequenceClassifier`, 8 steps": (
        lambda: SequenceClassifier(8, 10, 64),
        lambda count: (torch.randn(count, 8, 8), torch.randint(1, 9, (count,))),
    ),
    "timm test_resnet, 32 x 32": (lambda: timm.create_model("test_resnet", num_classes=10), images(3, 32, 32)),
    "timm test_vit, 32 x 32": (lambda: timm.create_model("test_vit", img_size=32, num_classes=10), images(3, 32, 32)),
    "timm resnet18, 64 x 64": (lambda: timm.create_model("resnet18", num_classes=10), images(3, 64, 64)),
}


def in_turns(ways: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """The best seconds of each; at least three turns, and else so many as five seconds allow."""
    best = dict.fromkeys(ways, float("inf"))
    order, began = list(ways), time.perf_counter()
    for turn in range(rounds + 1):
        if turn > 3 and time.perf_counter() - began > 5:
            break
        order.append(order.pop(0))
        for name in order:
            start = time.perf_counter()
            ways[name]()
            if turn:  # the first fills caches
                best[name] = min(best[name], time.perf_counter() - start)
    return best


def voting(make: Callable[[], nn.Module], states: list[Any]) -> nn.Module:
    """Ensemble-Pytorch's, with the same weights."""
    from torchensemble import VotingClassifier

    ensemble = VotingClassifier(estimator=make(), n_estimators=MEMBERS, cuda=False)
    for state in states:
        ensemble.estimators_.append(ensemble._make_estimator())
        ensemble.estimators_[-1].load_state_dict(state)
    return ensemble.eval()


def row(name: str, batch: int, rounds: int) -> tuple[str, float]:
    """A line of the table, and how many times faster than the loop we are."""
    make, inputs_of = NETWORKS[name]
    torch.manual_seed(0)
    plain, own = [make().eval() for _ in range(MEMBERS)], [make().eval() for _ in range(MEMBERS)]
    for one, other in zip(plain, own, strict=True):
        other.load_state_dict(one.state_dict())
    inputs, calls = inputs_of(batch), MemberCalls(own)
    ways: dict[str, Callable[[], Any]] = {
        "loop": lambda: torch.stack([member(*inputs) for member in plain]),
        "ours": lambda: calls(*inputs),
    }
    start = time.perf_counter()
    calls(*inputs)
    first = time.perf_counter() - start
    torch.testing.assert_close(ways["ours"](), ways["loop"](), rtol=1e-4, atol=1e-5)
    best = in_turns(ways, rounds)
    ratio = best["loop"] / best["ours"]
    cells = [name, str(batch), f"{best['loop'] * 1e3:.3f}", f"{best['ours'] * 1e3:.3f}", f"**{ratio:.2f}**"]
    cells += [calls.plan[0].chosen, f"{first:.2f}"]
    if PEER:
        peer = voting(make, [member.state_dict() for member in plain])
        averages = {"peer": lambda: peer(*inputs), "ours": lambda: calls(*inputs).softmax(2).mean(0)}
        torch.testing.assert_close(averages["ours"](), averages["peer"](), rtol=1e-4, atol=1e-5)
        best = in_turns(averages, rounds)
        cells.append(f"{best['peer'] / best['ours']:.2f}")
    return f"| {' | '.join(cells)} |", ratio


def report(rounds: int) -> str:
    """Measure, and lay it out as Markdown."""
    packages = ["torch", "timm", *(["torchensemble"] if PEER else [])]
    lines = [f"{origin(*packages)}; {MEMBERS} members, CPU, best of up to {rounds} turns."]
    missing = "" if PEER else " Ensemble-Pytorch is not installed."
    head = ["network", "batch", "loop, ms", "ours, ms", "faster", "chosen", "first batch, s"]
    head += ["than Ensemble-Pytorch"] if PEER else []
    ratios = []
    for threads in THREADS:
        torch.set_num_threads(threads)
        lines += ["", f"Threads: {threads}.{missing}", "", f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
        with quietly(), torch.no_grad():
            for name in NETWORKS:
                for batch in BATCHES:
                    line, ratio = row(name, batch, rounds)
                    lines.append(line)
                    ratios.append(ratio)
    doubled = sum(ratio >= 2 for ratio in ratios)
    slower = sum(ratio < 1 / 1.05 for ratio in ratios)
    lines += ["", f"At least twice as fast as the loop: {doubled} of {len(ratios)}. Slower than 1.05 times: {slower}; "
              f"the slowest {min(ratios):.2f}, the fastest {max(ratios):.1f} times as fast."]  # fmt: skip
    return "\n".join(lines)


if __name__ == "__main__":
    command_line(__doc__, HEADING, report, rounds=60)
