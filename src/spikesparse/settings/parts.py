"""Parts of the user's own, named by class path: what is asked of them, and why one is refused."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spikesparse.errors import UserError
from spikesparse.settings.class_paths import check_path

FILLED_IN = ("num_classes", "input_shape", "timesteps")  # what the data module tells a network


@dataclass(frozen=True)
class Part:
    """What a flag that takes a class path needs.

    Attributes:
        suits: whether what the path names is of that kind.
        needed: the kind in words.
        page: where it is explained.
    """

    suits: Callable[[Any], bool]
    needed: str
    page: str


def _is_module(thing: Any) -> bool:
    from torch import nn

    return isinstance(thing, type) and issubclass(thing, nn.Module)


def _is_encoder(thing: Any) -> bool:
    from spikesparse.data.encoding import Encoder

    return isinstance(thing, type) and issubclass(thing, Encoder)


PARTS: dict[str, Part] = {
    "model.net": Part(_is_module, "a torch.nn.Module whose forward returns a SpikingOutput", "own_network"),
    "model.net.neuron": Part(_is_module, "a torch.nn.Module that makes spikes of currents", "own_neuron"),
    "model.penalty": Part(_is_module, "a torch.nn.Module that makes a scalar of a SpikeTally", "own_penalty"),
    "data.encoder": Part(_is_encoder, "a subclass of spikesparse.Encoder", "own_encoder"),
    "sparsity.schedule": Part(callable, "a function of one number, or a class whose objects are", "own_schedule"),
}


def refusal(key: str, path: str) -> UserError:
    """What to say where ``path`` cannot stand at ``key``, one of :data:`PARTS`."""
    part = PARTS[key]
    reason = _why_not(path, part) or "an argument of it is missing or wrong"
    return UserError(f"--{key}={path}: {reason}. Needed: {part.needed}; see docs/{part.page}.md.")


def unusable_part(configs: list[dict[str, Any]]) -> UserError | None:
    """The first part that cannot be used, among settings of which the last that names it counts.

    For where jsonargparse refused something: its own words for this are long, and do not say what is needed.
    """
    for key, part in PARTS.items():
        paths = [path for config in configs if (path := _path_at(config, key))]
        if paths and "." in paths[-1] and not Path(paths[-1]).is_file() and _why_not(paths[-1], part):
            return refusal(key, paths[-1])
    return None


def refuse_unbuilt(config: Any) -> None:
    """Refuse a class path that the parser has left as it is, since nothing could be made of it.

    Args:
        config: parsed settings with dotted names.

    Raises:
        UserError: naming what is needed there.
    """
    for key in ("data.encoder", "sparsity.schedule"):
        value = config.get(key)
        if isinstance(value, str) and "." in value:
            raise refusal(key, value)


def check_network(path: str) -> None:
    """Refuse a network that the data module cannot tell what it must know.

    Raises:
        UserError: naming the arguments that its class lacks.
    """
    taken = inspect.signature(_find(path)).parameters
    lacking = [name for name in FILLED_IN if name not in taken]
    if lacking and not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in taken.values()):
        raise UserError(
            f"--model.net={path}: its __init__ takes no {', '.join(lacking)}. The data module fills in "
            f"{', '.join(FILLED_IN)}, and all are needed; see docs/{PARTS['model.net'].page}.md."
        )


def _find(path: str) -> Any:
    check_path(path)
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def _why_not(path: str, part: Part) -> str | None:
    try:
        thing = _find(path)
    except ImportError as error:
        file = Path(path.partition(".")[0]).with_suffix(".py")
        return f"{error}" if file.is_file() else f"{error} (there is no {file} in {Path.cwd()})"
    except AttributeError as error:
        return str(error)
    return None if part.suits(thing) else "it is something else"


def _path_at(config: dict[str, Any], key: str) -> str | None:
    node: Any = config
    for name in key.split("."):
        node = node if isinstance(node, dict) else {}
        inner = node.get("init_args")
        node = node.get(name, inner.get(name) if isinstance(inner, dict) else None)
    node = node.get("class_path") if isinstance(node, dict) else node
    return node if isinstance(node, str) else None
