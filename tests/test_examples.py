"""The notebooks in examples/ run, on small demo data, and hold no outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

import videovit
from tests.helpers.project import ROOT
from tests.helpers.runs import TINY, write_config
from videovit.config import load_config
from videovit.models import build_model

EXAMPLES = sorted((ROOT / "examples").glob("*.ipynb"))


def execute(name: str, folder: Path, parameters: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Run a notebook with other values in its cell of parameters; returns what its code cells show."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for key in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR"):
        monkeypatch.setenv(key, str(folder / "jupyter"))
    notebook = nbformat.read(ROOT / "examples" / name, as_version=4)
    (place,) = [i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", [])]
    lines = [f"{key} = {value!r}" for key, value in parameters.items()]
    assert all(line.split(" = ")[0] + " = " in notebook.cells[place].source for line in lines)
    notebook.cells.insert(place + 1, nbformat.v4.new_code_cell("\n".join(lines)))
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(ROOT / "examples")}}).execute()
    return [shown(cell) for cell in notebook.cells if cell.cell_type == "code"]


def shown(cell: Any) -> str:
    return "".join(out.get("text") or out.get("data", {}).get("text/plain", "") for out in cell.outputs)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_notebook_holds_no_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert all(not cell.outputs and cell.execution_count is None for cell in notebook.cells if cell.cell_type == "code")


def test_quickstart_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = load_config(write_config(tmp_path, TINY))
    videovit.Model(cfg, build_model(cfg), ["left", "middle", "right"]).save(tmp_path / "tiny")
    given = {"MODEL": str(tmp_path / "tiny"), "OUTPUT": str(tmp_path / "output")}
    outputs = execute("quickstart.ipynb", tmp_path, given, monkeypatch)
    text = "\n".join(outputs)
    assert "<Model MViT, 3 classes" in text and "('middle'," in text
    assert "cannot read video 'no_such_video.mp4'" in text and "torch.Size([2, 32])" in text
    assert "(torch.Size([15, 3, 4, 32, 32]), torch.Size([15, 3]))" in text
    assert outputs[-1] == "True" and outputs[7] == "True"


def test_fine_tune_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"NUM_VIDEOS": 36, "EPOCHS": 1, "OUTPUT": str(tmp_path / "output")}
    *_, motion, files = execute("fine_tune.ipynb", tmp_path, given, monkeypatch)
    assert motion.startswith("forwards:  ('") and "backwards: ('" in motion and "'model.safetensors'" in files
    assert videovit.load(tmp_path / "output" / "model").class_names[:2] == ["checker", "cross"]
