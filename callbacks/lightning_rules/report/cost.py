"""What a run costs: time, memory and, where the machine tells it, energy."""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path

import torch

ENERGY = Path("/sys/class/powercap/intel-rapl:0/energy_uj")  # of the first processor, in millionths of a joule
UNIT = 1 if sys.platform == "darwin" else 1024  # bytes, of the memory that the system reports


class Meter:
    """Measures from when it is made.

    Attributes:
        began: ``time.perf_counter`` at the beginning.
    """

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self._energy = _energy()

    def read(self, device: torch.device) -> dict[str, float]:
        """Seconds, peak memory of this process and of its device in bytes, and joules where they can be read.

        Does not wait for the device. Energy is that of the whole processor, or of the whole graphics card.
        """
        found = {
            "seconds": time.perf_counter() - self.began,
            "peak_bytes": float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT),
        }
        if device.type == "cuda":
            found["device_peak_bytes"] = float(torch.cuda.max_memory_allocated(device))
        now = _energy()
        if now is not None and self._energy is not None and now >= self._energy:
            found["joules"] = now - self._energy
        return found


def _energy() -> float | None:
    """Joules that the processor has taken; None where the machine does not tell."""
    try:
        return int(ENERGY.read_text()) / 1e6
    except (OSError, ValueError):
        return None
