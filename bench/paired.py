"""What the measurements of training share: the machine in words, turns, and whether a criterion is met."""

import os
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

MIB = 1 << 20
Json = dict[str, Any]


def machine() -> Json:
    """What the figures depend on."""
    versions = {name: sys.modules[name].__version__ for name in ("torch", "transformers", "trl") if name in sys.modules}
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "?")
    return {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "command": " ".join(["python", *sys.argv]),
        **versions,
    }


def told(facts: Json) -> str:
    """The same in one line."""
    return ", ".join(f"{name} {value}" for name, value in facts.items() if name != "command")


def alternating(names: Sequence[str], round: int) -> list[str]:
    """Whose turn it is: forwards and backwards by turns."""
    return list(names) if round % 2 == 0 else list(reversed(names))


def judged(what: str, value: float, limit: float, *, least: bool = False) -> Json:
    """Prints whether a criterion is met."""
    met = value >= limit if least else value <= limit
    sign = "≥" if least else "≤"
    print(f"  {'met   ' if met else 'MISSED'}  {what}: {value:.3g} (wanted {sign} {limit:.3g})")
    return {"what": what, "value": value, "limit": limit, "least": least, "met": met}
