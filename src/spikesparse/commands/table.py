"""The table of commands: their modules are imported when they are asked for, since torch takes seconds."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import NamedTuple


class Command(NamedTuple):
    """A subcommand.

    Attributes:
        module: below this package.
        function: in it, which takes the arguments.
        usage: arguments of an example.
        about: one line of help.
        resumes: the same command goes on where it was stopped.
        trains_itself: it runs on Lightning in this process.
    """

    module: str
    function: str
    usage: str
    about: str
    resumes: bool = False
    trains_itself: bool = True

    def load(self) -> Callable[[list[str]], object]:
        """The function."""
        found: Callable[[list[str]], object] = getattr(
            importlib.import_module(f"{__package__}.{self.module}"), self.function
        )
        return found


COMMANDS = {
    "train": Command("train", "train", "--config digits", "fit, test the best checkpoint, close with a table", True),
    "compare": Command("train", "compare", "--config digits", "that, and its accuracy-only twin, side by side", True),
    "fit": Command("train", "fit", "--config digits", "Lightning's fit: train, and no test", True),
    "validate": Command("cli", "validate", "--ckpt_path CHECKPOINT", "Lightning's validate: on the validation split"),
    "test": Command("train", "test", "--ckpt_path CHECKPOINT", "the test split, with the table of all counts"),
    "predict": Command("cli", "predict", "--ckpt_path CHECKPOINT", "each image's class and spikes as a CSV file"),
    "report": Command("report.command", "main", "RUN [RUN ...]", "runs side by side, as one HTML file", False, False),
    "exits": Command("exits.command", "main", "RUN", "accuracy and spikes at each confidence of early exit"),
    "pareto": Command("pareto.command", "main", "--config FILE --trials 24", "search: accuracy against SynOps", True),
    "campaign": Command("campaign.command", "main", "PLAN", "recipes, twins and seeds, with intervals", True, False),
    "convert": Command("convert", "main", "FOLDER OUT.npz", "a folder of images as one file"),
}

_NOTE = """
Each has --help; fit, validate, test and predict also --print_config. FILE is a YAML file, or the name of an experiment
that comes with the package. All but report and convert take --allow-import PREFIX (again, or several with commas):
class paths in settings may name your own modules below it. Without it they name this package, torch and Lightning
only; see docs/safety.md.
"""


def help_text() -> str:
    """What ``spikesparse --help`` prints."""
    lines = [(f"spikesparse {name} {command.usage}", command.about) for name, command in COMMANDS.items()]
    return "\n".join(["The command line.", "", *(f"{usage:<60}  {about}" for usage, about in lines), _NOTE])
