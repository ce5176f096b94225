"""Where a plan and its configurations are: at that path, in configs/ here, or shipped with the package."""

from __future__ import annotations

from pathlib import Path

from spikesparse.errors import UserError, did_you_mean
from spikesparse.files.paths import CONFIGS


def find_plan(text: str) -> Path:
    """The file of a plan that is named by its path or by its name alone.

    Raises:
        UserError: if there is none.
    """
    found = plan_path(text)
    if found is None:
        known = [path.stem for path in all_plans()]
        near = did_you_mean(Path(text).stem, known)
        raise UserError(f"PLAN {text}: no such file, and no plan of that name.{near} There are: {', '.join(known)}.")
    return found


def plan_path(text: str) -> Path | None:
    """The file of a plan; None if there is no such plan."""
    return _find(text, "campaign")


def all_plans() -> list[Path]:
    """The plans in configs/campaign, here and shipped, by name."""
    folders = (CONFIGS / "campaign", Path("configs/campaign"))  # of one name, the one here
    found = {path.name: path for folder in folders for path in folder.glob("*.yaml")}
    return [path for _, path in sorted(found.items())]


def find_config(text: str, plan: Path) -> str:
    """A configuration that a plan names, as the command line is to name it.

    A path holds from the current folder, or from the plan's; a name is that of a file in configs/experiment.

    Raises:
        UserError: if there is none.
    """
    if Path(text).is_file():
        return text
    if (beside := plan.parent / text).is_file():
        return str(beside)
    found = _find(text, "experiment")
    if found is None:
        known = [path.stem for path in sorted((CONFIGS / "experiment").glob("*.yaml"))]
        raise UserError(
            f"{plan}: config {text}: no such file, neither here nor beside the plan, and no experiment of that name."
            f"{did_you_mean(Path(text).stem, known)}"
        )
    return str(found)


def _find(text: str, kind: str) -> Path | None:
    path = Path(text)
    inside = [path] if "/" not in text else []
    names = [each.with_name(f"{each.name}.yaml") for each in inside if path.name] + inside
    candidates = [path, *(root / kind / name for root in (Path("configs"), CONFIGS) for name in names)]
    if path.parts[:1] == ("configs",):
        candidates.append(CONFIGS.joinpath(*path.parts[1:]))
    try:
        return next((each for each in candidates if each.is_file()), None)
    except (OSError, ValueError):  # too long for a name, or a zero byte in it
        return None
