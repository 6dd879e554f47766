"""Sources by name."""

import pytest

from big_audio.datasets import build


def test_names_are_the_modules_that_offer_a_source():
  import importlib

  assert {"audio_dir", "worlds.notes", "digits", "tfds"} <= set(build.names())
  for name in build.names():
    assert hasattr(importlib.import_module(f"big_audio.datasets.{name}"), "Source"), name


def test_build():
  assert len(build.build("worlds.notes", num_examples=7, sr=8000)) == 7


@pytest.mark.parametrize(
  "source,kw,message",
  [
    ("audio_dr", {}, r'here: no source "audio_dr"\. Did you mean audio_dir'),
    ("proj.nothing.there", {}, r'no source "proj\.nothing'),
    ("audio", {}, "has no class Source"),
    ("worlds.notes", dict(splt="train"), r"unexpected keyword.*Did you mean split"),
    ("audio_dir", {}, r"missing.*'dir'"),
    ("worlds.notes", dict(num_examples=0), "has no examples"),
  ],
)
def test_wrong_names(source, kw, message):
  with pytest.raises(ValueError, match=message):
    build.build(source, "here", **kw)


def test_the_split_of_a_source_that_is_told_none():
  assert build.default_split("audio_dir") == "train" and build.default_split("jsonl") == "all"
  assert build.default_split("arrayrecord") is None
