"""Members that come one at a time, and how much memory they take."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from lightning_rules.combine import streamed_members
from lightning_rules.combine.member_calls import MemberCalls
from lightning_rules.combine.streamed_members import StreamedMembers, fits, free_memory


def test_same_as_calling_the_members() -> None:
    members = [nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).eval() for _ in range(3)]
    others = [nn.Linear(4, 3).eval() for _ in range(2)]
    one, two = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).eval(), nn.Linear(4, 3).eval()
    states = [member.state_dict() for member in members]
    x = torch.randn(5, 4)
    with torch.inference_mode():
        assert torch.equal(StreamedMembers(one, states)(x), MemberCalls(members)(x))
        mixed = StreamedMembers(
            [one, two, one, two], [states[0], others[0].state_dict, states[1], others[1].state_dict]
        )
        alternating = [members[0], others[0], members[1], others[1]]
        assert torch.equal(mixed(x), torch.stack([module(x) for module in alternating]))
    assert not one[0].weight.is_inference()


def _peak() -> int:
    """The most memory of this process since the mark was last reset, in bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


@pytest.mark.skipif(sys.platform != "linux", reason="resets the mark of the memory's peak as Linux does")
def test_memory_stays_bounded(tmp_path: Path) -> None:
    """Eight members of 30 MB in one file: a call needs much less than all of them."""
    file, shell = tmp_path / "members.pt", nn.Linear(2000, 3750, bias=False).eval()
    torch.save([{"weight": torch.full((3750, 2000), float(number))} for number in range(8)], file)
    calls = StreamedMembers(shell, [lambda number=number: torch.load(file, mmap=True)[number] for number in range(8)])
    with torch.no_grad():
        shell(x := torch.ones(1, 2000))
        Path("/proc/self/clear_refs").write_text("5")
        before = _peak()
        assert calls(x)[:, 0, 0].tolist() == [2000.0 * number for number in range(8)]
    assert _peak() - before < 0.5 * file.stat().st_size
    everything = [state() for state in calls.states]
    assert sum(state["weight"].sum() for state in everything) > 0
    assert _peak() - before > 0.9 * file.stat().st_size  # the measure sees mapped files


def test_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    free = free_memory(torch.device("cpu"))
    assert free is not None
    assert free > 1e6
    assert fits(1, "cpu")
    assert not fits(10**15, "cpu")
    monkeypatch.setattr(streamed_members, "free_memory", lambda device: 100)
    assert fits(80, "cpu")
    assert not fits(81, "cpu")
    monkeypatch.undo()
    assert fits(10**15, "meta")  # no memory, no limit


def test_the_limit_of_a_container_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamed_members, "_left_in_container", lambda: 1000)
    assert free_memory(torch.device("cpu")) == 1000


def test_bad_input() -> None:
    shell = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="0 members"):
        StreamedMembers([shell], [])
    with pytest.raises(ValueError, match="2 modules for 1 members"):
        StreamedMembers([shell, shell], [shell.state_dict()])
    with pytest.raises(ValueError, match="member 1 are not those of Linear"):
        StreamedMembers(shell, [shell.state_dict(), nn.Linear(3, 3).state_dict()])(torch.ones(1, 2))
