"""What every notebook has to satisfy: it is its source, names what exists, and runs."""

import ast
import importlib
import json
import os
import pathlib

import jupytext

ROOT = pathlib.Path(__file__).parents[1]


class Notebook:
  """proj/<project>/notebooks/<project>.ipynb and the .py beside it."""

  def __init__(self, project: str):
    self.folder = ROOT / "proj" / project / "notebooks"
    self.source, self.path = self.folder / f"{project}.py", self.folder / f"{project}.ipynb"

  def check_it_is_its_source(self) -> None:
    """After a change of the .py: jupytext --update --to ipynb"""
    cells = lambda notebook: [(c["cell_type"], "".join(c["source"])) for c in notebook["cells"]]
    stored = json.loads(self.path.read_text())
    assert cells(stored) == cells(jupytext.read(self.source))
    for cell in stored["cells"]:
      assert not cell.get("outputs") and cell.get("execution_count") is None
    assert self.path.stat().st_size < 50_000
    assert stored["metadata"]["kernelspec"]["name"] == "python3"

  def check_names(self, modules: set[str], least: int) -> None:
    """It imports what exists, these of ours among it, and uses at least so many names of ours."""
    tree = ast.parse(self.source.read_text())
    found = {}
    for node in ast.walk(tree):
      if isinstance(node, ast.Import):
        for a in node.names:
          found[a.asname or a.name] = importlib.import_module(a.name)
      elif isinstance(node, ast.ImportFrom):
        module = importlib.import_module(node.module)
        for a in node.names:
          if not hasattr(module, a.name):
            importlib.import_module(f"{node.module}.{a.name}")
          found[a.asname or a.name] = getattr(module, a.name)
    ours = {k for k, m in found.items() if getattr(m, "__name__", "").startswith(("proj.", "big_"))}
    assert modules <= ours
    used = [
      (n.value.id, n.attr)
      for n in ast.walk(tree)
      if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name) and n.value.id in ours
    ]
    assert len(used) > least
    for module, name in used:
      assert hasattr(found[module], name), f"{module}.{name}"

  def run(self, folder):
    """Runs it in smoke form in `folder`; returns the outputs of its cells. Raises as cells do."""
    import nbclient
    import nbformat

    notebook = nbformat.read(self.path, as_version=4)
    assert "SMOKE = True" in notebook.cells[1].source
    env = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    env.pop("XLA_FLAGS", None)  # one device, whatever the tests of this process simulate
    client = nbclient.NotebookClient(
      notebook, timeout=900, resources={"metadata": {"path": str(folder)}}
    )
    client.execute(env=env)
    outputs = [o for c in notebook.cells if c.cell_type == "code" for o in c.outputs]
    assert not [o for o in outputs if o.output_type == "error"]
    return outputs
