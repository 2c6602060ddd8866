"""What a run costs: time, memory and, where the machine tells it, energy."""

from __future__ import annotations

import importlib
import resource
import sys
import time
from pathlib import Path

import torch

ENERGY = Path("/sys/class/powercap/intel-rapl:0/energy_uj")  # of the first processor, in millionths of a joule
UNIT = 1 if sys.platform == "darwin" else 1024  # bytes, of the memory that the system reports


class Meter:
    """Measures from when it is made.

    Args:
        device: That trains.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._began = time.perf_counter()
        self._energy = energy_of(device)

    def read(self) -> dict[str, float]:
        """Seconds, peak memory of this process and of its device in bytes, and joules where they can be read.

        Does not wait for the device. Energy is that of the whole graphics card; without one, of the whole processor.
        """
        found = {
            "seconds": time.perf_counter() - self._began,
            "peak_bytes": float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT),
        }
        if self.device.type == "cuda":
            found["device_peak_bytes"] = float(torch.cuda.max_memory_allocated(self.device))
        now = energy_of(self.device)
        if now is not None and self._energy is not None and now >= self._energy:
            found["joules"] = now - self._energy
        return found


def energy_of(device: torch.device) -> float | None:
    """Joules that a graphics card (by NVML, with the package ``nvidia-ml-py``) or the processor has taken so far.

    None where the machine does not tell.
    """
    try:
        return _of_card(device) if device.type == "cuda" else int(ENERGY.read_text()) / 1e6
    except Exception:  # no such file or package, a card that does not count, a driver that does not answer
        return None


def _of_card(device: torch.device) -> float:
    pynvml = importlib.import_module("pynvml")  # of the package nvidia-ml-py, which not every machine has
    pynvml.nvmlInit()
    card = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
    return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(card)) / 1e3
