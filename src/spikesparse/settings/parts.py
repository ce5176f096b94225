"""Parts of the user's own, named by class path: what each flag needs, and why a path cannot be used."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import Any

from torch import nn

from spikesparse.data.encoding import Encoder
from spikesparse.errors import UserError
from spikesparse.settings.class_paths import check_path
from spikesparse.settings.moved import moved
from spikesparse.settings.plain import flat, is_file

_FILLED_IN = ("num_classes", "input_shape", "timesteps")  # what the data module tells a network
#: Flag -> base class, or None for whatever can be called; what is needed, in words; the page that explains it.
PARTS: dict[str, tuple[type | None, str, str]] = {
    "model.net": (nn.Module, "a torch.nn.Module whose forward returns a SpikingOutput", "own_network"),
    "model.net.neuron": (nn.Module, "a torch.nn.Module that makes spikes of currents", "own_neuron"),
    "model.penalty": (nn.Module, "a torch.nn.Module that makes a scalar of a SpikeTally", "own_penalty"),
    "data.encoder": (Encoder, "a subclass of spikesparse.Encoder", "own_encoder"),
    "sparsity.schedule": (None, "a function of one number, or a class whose objects are", "own_schedule"),
}


def check_parts(configs: list[dict[str, Any]]) -> None:
    """Refuse a part that cannot be used, before the parser does: its words are long, and do not say what is needed.

    Args:
        configs: settings, nested, of which the last that names a part counts.

    Raises:
        UserError: naming the flag, the path, and what is needed.
    """
    named: dict[str, Any] = {}
    for config in configs:
        named |= {k.replace(".init_args", "").removesuffix(".class_path"): path for k, path in flat(config).items()}
    for key, (base, _, _) in PARTS.items():
        path = named.get(key)
        if isinstance(path, str) and "." in path and not is_file(path) and (reason := _why_not(path, base)):
            raise _refusal(key, path, reason)


def check_built(config: Any) -> None:
    """Refuse what the parser has left as a text, since nothing could be built of it.

    Args:
        config: parsed settings, with dotted names.

    Raises:
        UserError: as :func:`check_parts`.
    """
    for key in ("data.encoder", "sparsity.schedule"):
        path = config.get(key)
        if isinstance(path, str) and "." in path:
            raise _refusal(key, path, "an argument of it is missing or wrong")


def check_network(path: str) -> None:
    """Refuse a network that the data module cannot tell what it must know.

    Raises:
        UserError: naming the arguments that its class lacks.
    """
    taken = inspect.signature(_find(path)).parameters
    lacking = [name for name in _FILLED_IN if name not in taken]
    if lacking and not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in taken.values()):
        raise UserError(
            f"--model.net={path}: its __init__ takes no {', '.join(lacking)}. The data module fills in "
            f"{', '.join(_FILLED_IN)}, and all are needed; see docs/{PARTS['model.net'][2]}.md."
        )


def _find(path: str) -> Any:
    check_path(path)
    module, _, name = moved(path).rpartition(".")
    return getattr(importlib.import_module(module), name)


def _why_not(path: str, base: type | None) -> str | None:
    try:
        thing = _find(path)
    except ImportError as error:
        file = Path(path.partition(".")[0]).with_suffix(".py")
        return f"{error}" if file.is_file() else f"{error} (there is no {file} in {Path.cwd()})"
    except AttributeError as error:
        return str(error)
    suits = callable(thing) if base is None else isinstance(thing, type) and issubclass(thing, base)
    return None if suits else "it is something else"


def _refusal(key: str, path: str, reason: str) -> UserError:
    _, needed, page = PARTS[key]
    return UserError(f"--{key}={path}: {reason}. Needed: {needed}; see docs/{page}.md.")
