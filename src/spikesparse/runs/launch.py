"""How many processes a run may be, and how they may be started."""

from __future__ import annotations

import os
import re
from typing import Any

import torch

from spikesparse.errors import UserError


def refuse_spawning(strategy: Any) -> None:
    """Refuse strategies whose processes keep what they measured: this one makes the tables and files."""
    if isinstance(strategy, str) and re.match(r"ddp_(spawn|fork|notebook)", strategy):
        raise UserError(f"--trainer.strategy={strategy}: on the command line, use --trainer.strategy=ddp.")


def refuse_a_crowd(trainer: Any) -> None:
    """Refuse far more processes on a CPU than it has cores: each takes half a gigabyte before it has begun."""
    on_cpu = trainer.accelerator == "cpu" or (trainer.accelerator == "auto" and not torch.cuda.is_available())
    devices, most = str(trainer.devices), 4 * (os.cpu_count() or 1)
    if on_cpu and devices.isdecimal() and int(devices) > most:
        raise UserError(
            f"--trainer.devices={devices}: on a CPU that is a process each, and {most} are the most on these "
            f"{most // 4} cores."
        )
