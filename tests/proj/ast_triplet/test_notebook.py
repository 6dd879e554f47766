"""The notebook: what is committed agrees, names what exists, and runs in smoke form."""

import pytest

from tests.notebooks import Notebook

NOTEBOOK = Notebook("ast_triplet")


def test_the_notebook_is_its_source():
  NOTEBOOK.check_it_is_its_source()


def test_it_imports_only_what_exists():
  NOTEBOOK.check_names({"browse", "embed", "loops", "playlist", "similar"}, 10)


@pytest.mark.slow
def test_it_runs_in_smoke_form(tmp_path):
  outputs = NOTEBOOK.run(tmp_path)
  shown = [o.data for o in outputs if o.output_type == "display_data"]
  assert sum("<audio" in d.get("text/html", "") for d in shown) == 4  # one loop, and three alike
  assert sum("image/png" in d for d in shown) == 3  # loops, confusion, plane
  printed = "".join(o.text for o in outputs if o.output_type == "stream")
  assert "18 tracks" in printed and "#EXTM3U" in printed
  assert (tmp_path / "runs" / "notebook_loops.html").stat().st_size > 10_000
