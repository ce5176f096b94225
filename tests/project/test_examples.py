"""The notebook runs from top to bottom, in a folder of its own."""

import re
from pathlib import Path

import nbformat
import pytest

NOTEBOOK = Path(__file__).resolve().parents[2] / "examples" / "quickstart.ipynb"


def test_notebook_is_kept_without_outputs_and_without_this_machines_paths():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    assert not re.search(r"/(home|tmp|work|Users)/", NOTEBOOK.read_text())
    for link in re.findall(r"\]\((\.\./[^)]+)\)", "\n".join(cell.source for cell in notebook.cells)):
        assert (NOTEBOOK.parent / link).is_file(), link


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the kernel's own
def test_notebook_runs(tmp_path):
    from nbclient import NotebookClient

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=500, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    printed = "".join(output.text for output in outputs if output.output_type == "stream")
    assert "sparse network beside its accuracy-only twin" in printed  # the command's table; the notebook's is below
    tables = [output for output in outputs if "twin (lambda 0)" in output.get("data", {}).get("text/plain", "")]
    assert len(tables) == 1
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 4
    assert len(list(tmp_path.glob("runs/*/seed0/result.json"))) == 2
