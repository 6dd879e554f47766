"""The notebook: what is committed agrees, names what exists, and runs in smoke form."""

import pytest

from tests.notebooks import Notebook

NOTEBOOK = Notebook("vimh")


def test_the_notebook_is_its_source():
  NOTEBOOK.check_it_is_its_source()


def test_it_imports_only_what_exists():
  NOTEBOOK.check_names({"audio", "estimate", "make_vimh", "vimh"}, 10)


@pytest.mark.slow
def test_it_runs_in_smoke_form(tmp_path):
  outputs = NOTEBOOK.run(tmp_path)
  shown = [o.data for o in outputs if o.output_type == "display_data"]
  sounds = [d["text/html"] for d in shown if "<audio" in d.get("text/html", "")]
  assert len(sounds) == 6  # two sounds; the same two again, each with its estimate
  assert sounds[0] == sounds[2] and len(set(sounds)) == 4
  assert sum("image/png" in d for d in shown) == 3  # pictures, curves, confusion
  printed = "".join(o.text for o in outputs if o.output_type == "stream")
  assert "no problems" in printed and "log10_decay_time" in printed
  assert (tmp_path / "runs" / "notebook_vimh_simple_saw_smoke" / "metrics.jsonl").exists()
