"""Where a figure comes from: processor, cores, versions and load, without a host's name."""

import datetime
import os
import platform
import re
from pathlib import Path
from typing import Any


def facts() -> dict[str, Any]:
    """What to print beside every figure; `load` is the mean number of busy processes in the last minute."""
    import torch

    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "date": datetime.date.today().isoformat(),
        "load": round(os.getloadavg()[0], 2),
    }


def processor() -> str:
    """The processor's name, where the system tells it."""
    listing = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", listing.read_text()) if listing.exists() else None
    return found[1].strip() if found else platform.processor() or platform.machine()


def line(machine: dict[str, Any], threads: str) -> str:
    """One line of text from `facts`."""
    return (
        f"{machine['processor']}, {machine['cores']} cores, {threads}, torch {machine['torch']}, "
        f"Python {machine['python']}, {machine['date']}, load at the start {machine['load']}"
    )
