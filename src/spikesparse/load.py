"""A trained run back in Python."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spikesparse.errors import UserError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from spikesparse.data import CIFAR10DataModule
    from spikesparse.data.encoding import Encoder
    from spikesparse.module import SpikingClassifier
    from spikesparse.nn import SpikingNetwork

#: What the network takes from its data module, and the flag that decides it.
LINKED = {"timesteps": "--data.timesteps", "num_classes": "--data.source", "input_shape": "--data.source"}


def load_run(
    run_folder: str | Path, which: str = "best", allow_import: str | Sequence[str] = ()
) -> tuple[SpikingClassifier, CIFAR10DataModule]:
    """The trained module, in evaluation mode, and its data module.

    Args:
        run_folder: such as runs/digits/seed0.
        which: "best" or "last"; where there is no best checkpoint, the last is taken.
        allow_import: packages or modules of your own that the checkpoint's settings may name, as ``--allow-import``.

    Raises:
        UserError: if the folder holds no such run, or a class of its own may not or cannot be imported from here.
    """
    from spikesparse.files.checkpoint import check_state_dict, read_checkpoint, settings_of
    from spikesparse.files.run_folder import chosen_checkpoint
    from spikesparse.module import SpikingClassifier

    folder = Path(run_folder)
    path = chosen_checkpoint(folder) if which == "best" else folder / "checkpoints" / f"{which}.ckpt"
    checkpoint = read_checkpoint(path, flag=None)
    settings = settings_of(checkpoint, str(path))
    prefixes = (allow_import,) if isinstance(allow_import, str) else tuple(allow_import)
    ready = _built(SpikingClassifier, settings, str(path), prefixes)
    module, data = ready.model, ready.data
    check_state_dict(checkpoint["state_dict"], module.state_dict(), str(path))
    module.load_state_dict(checkpoint["state_dict"])
    return module.eval(), data


def arguments_of(module: type[SpikingClassifier], settings: dict[str, Any], named: str) -> dict[str, Any]:
    """The arguments of a module, built by a checkpoint's settings: its network, untrained, and the rest.

    Args:
        module: the class.
        settings: of the checkpoint.
        named: what to call it in an error.

    Raises:
        UserError: for settings that cannot be built.
    """
    return dict(vars(_built(module, settings, named, instantiate=False).model))


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
    from spikesparse.files.safe_yaml import checked_parser
    from spikesparse.imports import check_settings, limited_imports
    from spikesparse.own import unusable_part
    from spikesparse.settings_errors import SettingsErrors, plainly

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

    from spikesparse.files.safe_yaml import checked_parser
    from spikesparse.imports import check_settings, limited_imports
    from spikesparse.nn import SpikingNetwork
    from spikesparse.own import unusable_part

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
    from spikesparse.files.safe_yaml import checked_parser
    from spikesparse.imports import check_settings, limited_imports
    from spikesparse.own import unusable_part

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
    from spikesparse.report.runs import mapping

    for named, config in settings:
        net = mapping(mapping(config.get("model")).get("net"))
        for name in (net.keys() | mapping(net.get("init_args")).keys()) & LINKED.keys():
            raise UserError(f"{named}: the network takes its {name} from the data; {LINKED[name]} decides it.")
