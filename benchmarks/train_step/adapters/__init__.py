"""One file for each library: ``build(setting, **options)`` returns its :class:`~train_step.contender.Contender`.

Stateless layers run once on all time steps, neurons in the library's own way over time: its multi-step module where it
has one, else a loop.
"""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

# Two peers import h5py for files that nobody reads here; it is compiled for one version of Python, unlike the rest.
if importlib.util.find_spec("h5py") is None:
    sys.modules["h5py"] = ModuleType("h5py")
