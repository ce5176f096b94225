"""The wings of the package: imports go one way, and the science knows neither Lightning nor flags.

Read from the source, so that imports inside functions and under TYPE_CHECKING count as well.
"""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from spikesparse.files.paths import PACKAGE

#: The wings, from the ground up: each imports from those before it only.
ORDER = [
    "errors",
    "ops",
    "files",
    "nn",
    "data",
    "metrics",
    "sparsity",
    "settings",
    "training",
    "runs",
    "commands",
    "__main__",
]
SCIENCE = ("ops", "nn", "metrics", "data", "sparsity")
#: Where Lightning may be known in the science: the data module, and the callbacks that set lambda.
LIGHTNING_IN = {"data.module", "sparsity.annealing", "sparsity.budget", "sparsity.weight"}


def modules(package: Path) -> dict[str, ast.Module]:
    """Dotted name below the package -> what stands in it; the package's own __init__ is left out."""
    found = {}
    for file in sorted(package.rglob("*.py")):
        parts = file.relative_to(package).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name:
            found[name] = ast.parse(file.read_text())
    return found


def imported(tree: ast.Module, known: dict[str, ast.Module]) -> set[str]:
    """The modules of the package that a module imports; "" for the package's own __init__."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            raise AssertionError(f"a relative import in line {node.lineno}: name the wing")
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "spikesparse":
            base = (node.module or "").partition(".")[2]
            names = [f"{base}.{alias.name}".lstrip(".") for alias in node.names]
            found |= {name if name in known else base for name in names}
        elif isinstance(node, ast.Import):
            found |= {a.name.partition(".")[2] for a in node.names if a.name.partition(".")[0] == "spikesparse"}
    return found


def arrows_up(known: dict[str, ast.Module]) -> list[str]:
    """Imports against the order of the wings, and of the package's __init__."""
    return [
        f"{name} -> {other or '__init__'}"
        for name, tree in known.items()
        for other in sorted(imported(tree, known))
        if not other or ORDER.index(other.partition(".")[0]) > ORDER.index(name.partition(".")[0])
    ]


def circle(known: dict[str, ast.Module]) -> list[str]:
    """Modules that import each other in a circle, if there are any."""
    try:
        list(TopologicalSorter({name: imported(tree, known) - {name} for name, tree in known.items()}).static_order())
    except CycleError as error:
        return list(error.args[1])
    return []


def strings(tree: ast.Module) -> list[str]:
    """Every text in a module, docstrings too."""
    return [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def lightning(tree: ast.Module) -> bool:
    """Whether a module imports Lightning."""
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return any(name.partition(".")[0] in ("pytorch_lightning", "lightning", "lightning_fabric") for name in names)


KNOWN = modules(PACKAGE)


def test_nothing_lies_loose_at_the_top():
    assert {name.partition(".")[0] for name in KNOWN} == set(ORDER)
    assert {path.name for path in PACKAGE.glob("*.py")} == {"__init__.py", "__main__.py", "errors.py"}


def test_imports_go_down_only():
    assert arrows_up(KNOWN) == []
    assert circle(KNOWN) == []


@pytest.mark.parametrize("wing", SCIENCE)
def test_the_science_knows_no_lightning_and_no_flags(wing):
    inside = {name: tree for name, tree in KNOWN.items() if name.partition(".")[0] == wing}
    assert {name for name, tree in inside.items() if lightning(tree)} <= LIGHTNING_IN
    assert {name: text for name, tree in inside.items() for text in strings(tree) if "--" in text and _flag(text)} == {}


@pytest.mark.parametrize("wing", ["files", "settings", "training", "runs", "commands"])
def test_a_wing_is_imported_without_what_it_holds(wing):
    (docstring,) = KNOWN[wing].body  # `--help` and `--version` need not wait for torch
    assert isinstance(docstring, ast.Expr)


def _flag(text: str) -> bool:
    return any(
        word.startswith("--") and word[2:3].isalpha() for word in text.replace("`", " ").replace("(", " ").split()
    )


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("def f():\n    from spikesparse.runs import folder", "nn.new -> runs.folder"),
        ("if TYPE_CHECKING:\n    import spikesparse.commands.main", "nn.new -> commands.main"),
        ("from spikesparse import LIF", "nn.new -> __init__"),
    ],
)
def test_an_arrow_up_is_found_wherever_it_stands(source, found):
    known = {**KNOWN, "nn.new": ast.parse(source)}
    assert arrows_up(known) == [found]


def test_a_circle_is_found():
    known = {
        "nn.a": ast.parse("from spikesparse.nn import b"),
        "nn.b": ast.parse("def f():\n    from spikesparse.nn.a import x"),
        "nn": ast.parse(""),
    }
    assert set(circle(known)) == {"nn.a", "nn.b"}
    assert circle({**known, "nn.b": ast.parse("")}) == []


def test_flags_and_lightning_are_found():
    assert [_flag(text) for text in ("set `--model.net.decay`", "a -- b", "T - 1")] == [True, False, False]
    assert lightning(ast.parse("from pytorch_lightning.callbacks import Timer"))
    assert not lightning(ast.parse("import torch"))
