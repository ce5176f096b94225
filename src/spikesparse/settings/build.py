"""A network, or a module and its data, built from settings."""

from __future__ import annotations

from typing import Any

from jsonargparse import ArgumentError, ArgumentParser

from spikesparse.data import CIFAR10DataModule
from spikesparse.data.encoding import Encoder, make_encoder
from spikesparse.errors import UserError
from spikesparse.nn import SpikingNetwork
from spikesparse.settings.build_errors import SettingsErrors
from spikesparse.settings.class_paths import check_settings, limited_imports
from spikesparse.settings.moved import moved
from spikesparse.settings.parser import checked_parser
from spikesparse.settings.parts import check_built, check_parts
from spikesparse.settings.plain import mapping
from spikesparse.settings.words import plainly

#: What the network takes from its data module, and the flag that decides it.
LINKED = {"timesteps": "--data.timesteps", "num_classes": "--data.source", "input_shape": "--data.source"}


def build_run(
    module: type[Any], settings: dict[str, Any], named: str, prefixes: tuple[str, ...] = (), instantiate: bool = True
) -> Any:
    """The module, or its arguments, and the data module of a checkpoint's settings.

    Args:
        module: class of the module.
        settings: of the checkpoint.
        named: what to call it in an error.
        prefixes: what its class paths may name beside this package, torch and Lightning.
        instantiate: build the module too.

    Raises:
        UserError: for settings that cannot be built.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(module, "model", instantiate=instantiate)
    parser.add_class_arguments(CIFAR10DataModule, "data")
    link_data_to_network(parser)
    settings = moved(settings)
    with checked_parser(), SettingsErrors(), limited_imports(prefixes):
        check_settings([(named, settings)])
        check_parts([settings])
        settings["data"]["draw_seed"] = int(settings["seed_everything"])  # true and false are seeds too
        try:
            config = parser.parse_object({key: settings[key] for key in ("model", "data")})
        except ArgumentError as error:
            raise UserError(f"{named}: {plainly(error)[:300]}") from error
        check_built(config)
        return parser.instantiate_classes(config)


def arguments_of(module: type[Any], settings: dict[str, Any], named: str) -> dict[str, Any]:
    """The arguments of a module as :func:`build_run` builds them: its network, untrained, and the rest."""
    return dict(vars(build_run(module, settings, named, instantiate=False).model))


def build_network(
    net: dict[str, Any], timesteps: int, num_classes: int, input_shape: tuple[int, int, int]
) -> SpikingNetwork:
    """A network, untrained, from its class path and arguments as a checkpoint's settings keep them."""
    net = moved(net)
    filled_in = {"timesteps": timesteps, "num_classes": num_classes, "input_shape": list(input_shape)}
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(SpikingNetwork, "net")
    with checked_parser(), limited_imports():  # what the command line allows, or load_run, and no more
        check_settings([("the checkpoint's settings", {"model": {"net": net}})])
        check_parts([{"model": {"net": net}}])
        config = parser.parse_object({"net": {**net, "init_args": {**net.get("init_args", {}), **filled_in}}})
        built: SpikingNetwork = parser.instantiate_classes(config).net
    return built


def build_encoder(encoder: Any) -> Encoder:
    """An encoder from its name, or its class path and arguments, as a checkpoint's settings keep it.

    Raises:
        UserError: if there is none of that name, or its class may not or cannot be imported.
    """
    settings = moved({"data": {"encoder": encoder}})
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--data.encoder", type=Encoder | str)
    with checked_parser(), limited_imports():  # what the command line allows, or load_run, and no more
        check_settings([("the checkpoint's settings", settings)])
        check_parts([settings])
        config = parser.parse_object(settings)
        check_built(config)
        return make_encoder(parser.instantiate_classes(config).data.encoder)


def link_data_to_network(parser: ArgumentParser) -> None:
    """What the network takes from its data module."""
    for name in LINKED:
        parser.link_arguments(f"data.{name}", f"model.net.init_args.{name}", apply_on="instantiate")


def refuse_linked(settings: list[tuple[str, dict[str, Any]]]) -> None:
    """Refuse settings of the network that its data decide: the parser would take them, and leave them out.

    Args:
        settings: nested, each with what to call it.

    Raises:
        UserError: if one is there.
    """
    for named, config in settings:
        net = mapping(mapping(config.get("model")).get("net"))
        for name in (net.keys() | mapping(net.get("init_args")).keys()) & LINKED.keys():
            raise UserError(f"{named}: the network takes its {name} from the data; {LINKED[name]} decides it.")
