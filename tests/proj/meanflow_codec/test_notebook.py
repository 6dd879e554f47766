"""The notebook: what is committed agrees, names what exists, and runs in smoke form."""

import pytest

from tests.notebooks import Notebook

NOTEBOOK = Notebook("meanflow_codec")


def test_the_notebook_is_its_source():
  NOTEBOOK.check_it_is_its_source()


def test_it_imports_only_what_exists():
  NOTEBOOK.check_names({"codec", "compare", "bitstream", "streams"}, 15)


@pytest.mark.slow
def test_it_runs_in_smoke_form(tmp_path):
  outputs = NOTEBOOK.run(tmp_path)
  shown = [o.data for o in outputs if o.output_type == "display_data"]
  (table,) = (d["text/markdown"] for d in shown if "text/markdown" in d)
  rows = [line.split(" | ")[0].removeprefix("| ") for line in table.splitlines()[2:]]
  assert [r for r in rows if r.startswith("ours")] == [
    f"ours, {n}{c}"
    for n in ("plain AE", "1 evaluation", "2 evaluations")
    for c in ("", ", range coded")
  ]
  assert rows[-2:] == ["identity", "zero"]
  sounds = [d["text/html"] for d in shown if "<audio" in d.get("text/html", "")]
  assert len(sounds) == 5  # the recording, three decodings, the own recording
  assert len(set(sounds)) == 5
  assert sum("image/png" in d for d in shown) == 2  # curves and spectrograms
  printed = "".join(o.text for o in outputs if o.output_type == "stream")
  assert "bit-equal to the whole recording: True" in printed
  assert "1.5 kbps packed" in printed and "coding           range" in printed
  assert (tmp_path / "runs" / "notebook_smoke" / "metrics.jsonl").exists()
