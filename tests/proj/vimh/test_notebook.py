"""The notebook: what is committed agrees, names what exists, and runs in smoke form."""

import ast
import importlib
import json
import os
import pathlib

import jupytext
import pytest

FOLDER = pathlib.Path("proj/vimh/notebooks").resolve()
SOURCE, NOTEBOOK = FOLDER / "vimh.py", FOLDER / "vimh.ipynb"
ROOT = FOLDER.parents[2]


def cells(notebook):
  return [(c["cell_type"], "".join(c["source"])) for c in notebook["cells"]]


def test_the_notebook_is_its_source():
  """After a change of the .py: jupytext --update --to ipynb"""
  stored = json.loads(NOTEBOOK.read_text())
  assert cells(stored) == cells(jupytext.read(SOURCE))
  for cell in stored["cells"]:
    assert not cell.get("outputs") and cell.get("execution_count") is None
  assert NOTEBOOK.stat().st_size < 50_000
  assert stored["metadata"]["kernelspec"]["name"] == "python3"


def test_it_imports_only_what_exists():
  tree = ast.parse(SOURCE.read_text())
  modules = {}
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      for a in node.names:
        modules[a.asname or a.name] = importlib.import_module(a.name)
    elif isinstance(node, ast.ImportFrom):
      module = importlib.import_module(node.module)
      for a in node.names:
        if not hasattr(module, a.name):
          importlib.import_module(f"{node.module}.{a.name}")
        modules[a.asname or a.name] = getattr(module, a.name)
  ours = {k for k, m in modules.items() if getattr(m, "__name__", "").startswith(("proj.", "big_"))}
  assert {"audio", "estimate", "make_vimh", "vimh"} <= ours
  used = [
    (n.value.id, n.attr)
    for n in ast.walk(tree)
    if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name) and n.value.id in ours
  ]
  assert len(used) > 10
  for module, name in used:
    assert hasattr(modules[module], name), f"{module}.{name}"


@pytest.mark.slow
def test_it_runs_in_smoke_form(tmp_path):
  import nbclient
  import nbformat

  notebook = nbformat.read(NOTEBOOK, as_version=4)
  assert "SMOKE = True" in notebook.cells[1].source
  env = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
  env.pop("XLA_FLAGS", None)  # one device, whatever the tests of this process simulate
  client = nbclient.NotebookClient(
    notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}}
  )
  client.execute(env=env)  # raises where a cell does

  outputs = [o for c in notebook.cells if c.cell_type == "code" for o in c.outputs]
  assert not [o for o in outputs if o.output_type == "error"]
  shown = [o.data for o in outputs if o.output_type == "display_data"]
  sounds = [d["text/html"] for d in shown if "<audio" in d.get("text/html", "")]
  assert len(sounds) == 6  # two sounds; the same two again, each with its estimate
  assert sounds[0] == sounds[2] and len(set(sounds)) == 4
  assert sum("image/png" in d for d in shown) == 3  # pictures, curves, confusion
  printed = "".join(o.text for o in outputs if o.output_type == "stream")
  assert "no problems" in printed and "log10_decay_time" in printed
  assert (tmp_path / "runs" / "notebook_vimh_simple_saw_smoke" / "metrics.jsonl").exists()
