"""A network, or a module and its data, built from settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spikesparse.errors import UserError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from spikesparse.data.encoding import Encoder
    from spikesparse.nn import SpikingNetwork
    from spikesparse.training.module import SpikingClassifier


#: What the network takes from its data module, and the flag that decides it.
LINKED = {"timesteps": "--data.timesteps", "num_classes": "--data.source", "input_shape": "--data.source"}


def _built(
    module: type[SpikingClassifier],
    settings: dict[str, Any],
    named: str,
    prefixes: tuple[str, ...] = (),
    instantiate: bool = True,
) -> Any:
    """Module, or its arguments, and data module of a checkpoint's settings."""
    from jsonargparse import ArgumentError, ArgumentParser

    from spikesparse.data import CIFAR10DataModule
    from spikesparse.settings.build_errors import SettingsErrors
    from spikesparse.settings.parser import checked_parser, limited_imports
    from spikesparse.settings.parts import check_settings, unusable_part
    from spikesparse.settings.words import plainly

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(module, "model", instantiate=instantiate)
    parser.add_class_arguments(CIFAR10DataModule, "data")
    link_data_to_network(parser)
    with limited_imports(prefixes), checked_parser(), SettingsErrors():
        check_settings([(named, settings)])
        settings["data"]["draw_seed"] = int(settings["seed_everything"])  # true and false are seeds too
        try:
            config = parser.parse_object({key: settings[key] for key in ("model", "data")})
        except ArgumentError as error:
            raise unusable_part([settings]) or UserError(f"{named}: {plainly(error)[:300]}") from error
        return parser.instantiate_classes(config)


def build_network(
    net: dict[str, Any], timesteps: int, num_classes: int, input_shape: tuple[int, int, int]
) -> SpikingNetwork:
    """A network, untrained, from its class path and arguments as a checkpoint's settings keep them."""
    from jsonargparse import ArgumentError, ArgumentParser

    from spikesparse.nn import SpikingNetwork
    from spikesparse.settings.parser import checked_parser, limited_imports
    from spikesparse.settings.parts import check_settings, unusable_part

    filled_in = {"timesteps": timesteps, "num_classes": num_classes, "input_shape": list(input_shape)}
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(SpikingNetwork, "net")
    with limited_imports(), checked_parser():  # what the command line allows, or load_run, and no more
        check_settings([("the checkpoint's settings", {"model": {"net": net}})])
        try:
            config = parser.parse_object({"net": {**net, "init_args": {**net.get("init_args", {}), **filled_in}}})
        except ArgumentError as error:
            raise unusable_part([{"model": {"net": net}}]) or error from error
        built: SpikingNetwork = parser.instantiate_classes(config).net
    return built


def build_encoder(encoder: Any) -> Encoder:
    """An encoder from its name, or its class path and arguments, as a checkpoint's settings keep it.

    Raises:
        UserError: if there is none of that name, or its class may not or cannot be imported.
    """
    from jsonargparse import ArgumentError, ArgumentParser

    from spikesparse.data.encoding import Encoder, make_encoder
    from spikesparse.settings.parser import checked_parser, limited_imports
    from spikesparse.settings.parts import check_settings, unusable_part

    settings = {"data": {"encoder": encoder}}
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--data.encoder", type=Encoder | str)
    with limited_imports(), checked_parser():  # what the command line allows, or load_run, and no more
        check_settings([("the checkpoint's settings", settings)])
        try:
            config = parser.parse_object(settings)
        except ArgumentError as error:
            raise unusable_part([settings]) or error from error
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
    from spikesparse.settings.plain import mapping

    for named, config in settings:
        net = mapping(mapping(config.get("model")).get("net"))
        for name in (net.keys() | mapping(net.get("init_args")).keys()) & LINKED.keys():
            raise UserError(f"{named}: the network takes its {name} from the data; {LINKED[name]} decides it.")
