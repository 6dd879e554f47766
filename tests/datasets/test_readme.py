"""The page on data names all that there is, and its code runs."""

import pathlib
import re

import big_audio.datasets
from big_audio.datasets import build
from big_audio.pp import builder, registry

PAGE = (pathlib.Path(big_audio.datasets.__file__).parent / "README.md").read_text()


def test_every_source_and_operation_is_named_and_no_other():
  rows = re.findall(r"^\| `([a-z_.]+)` \|", PAGE, re.M)
  assert sorted(rows) == build.names()
  builder.build("keep()")  # registers all operations
  table = PAGE[PAGE.index("| for | operations |") : PAGE.index("An operation of a project")]
  own = {n for n, f in registry.OPS.items() if f.__module__.startswith("big_audio.pp.")}
  assert sorted(re.findall(r"`([a-z_]+)`", table)) == sorted(own)


def test_its_code_runs(capsys):
  config, similarity, loading = re.findall(r"```python\n(.*?)```", PAGE, re.S)
  exec(config, found := {})
  exec(similarity, found)
  for spec in (*found["data"].values(), found["tracks"]):
    builder.build(spec["pp"])
  notes = {k: v for k, v in found["data"]["notes"].items() if k not in ("weight", "pp", "source")}
  assert len(build.build(found["data"]["notes"]["source"], **notes)) > 0
  exec(loading, {})
  first = capsys.readouterr().out
  assert first.startswith("(4, 4000, 1) ")
  exec(loading, {})
  assert capsys.readouterr().out == first
