import numpy as np
import pytest

from big_audio import trees

TREE = {"enc": {"a": np.zeros((2, 3)), "b": np.ones(3)}, "dec": {"a": np.full((2,), 2.0)}}


def test_flatten_split_merge():
  flat = trees.flatten(TREE)
  assert list(flat) == ["dec/a", "enc/a", "enc/b"]
  assert trees.unflatten(flat).keys() == TREE.keys()
  enc, rest = trees.split(TREE, lambda n: n.startswith("enc"))
  assert list(trees.flatten(enc)) == ["enc/a", "enc/b"]
  assert list(trees.flatten(trees.merge(enc, rest))) == list(flat)
  with pytest.raises(ValueError, match="enc/a"):
    trees.merge(TREE, enc)
  assert trees.count(TREE) == 11


def test_assign_needs_every_name_and_every_pattern():
  assert trees.assign(["enc/a", "dec/a"], ["enc/.*", ".*"], "w") == {"enc/a": 0, "dec/a": 1}
  with pytest.raises(ValueError, match="dec/a"):
    trees.assign(["enc/a", "dec/a"], ["enc/.*"], "w")
  with pytest.raises(ValueError, match="'encoder/"):
    trees.assign(["enc/a"], ["encoder/.*", ".*"], "w")


def test_strict_update_reports_every_difference():
  source = {"enc": {"a": np.full((2, 3), 5.0), "b": np.full(3, 5.0)}, "old": {"x": np.zeros(1)}}
  with pytest.raises(ValueError, match=r"dec/a.*old/x"):
    trees.strict_update(TREE, source, where="w")
  out = trees.strict_update(TREE, source, where="w", missing="dec/.*", unused="old/.*")
  assert out["enc"]["a"][0, 0] == 5 and out["dec"]["a"][0] == 2
  with pytest.raises(ValueError, match=r"\(3,\), expected \(2, 3\)"):
    bad = {"enc": {"a": np.zeros(3), "b": np.zeros(3)}, "dec": {"a": np.zeros(2)}}
    trees.strict_update(TREE, bad, where="w")


def test_strict_update_renames_and_copies():
  source = {"attn": {"k": np.full(2, 7.0)}}
  target = {"attn": {"k": np.zeros(2)}, "audio_attn": {"k": np.zeros(2)}}
  out = trees.strict_update(target, source, where="w", rename=[("^attn", "+audio_attn")])
  assert out["audio_attn"]["k"][0] == 7 and out["attn"]["k"][0] == 7
  out = trees.strict_update(
    {"audio_attn": target["audio_attn"]}, source, where="w", rename=[("^attn", "audio_attn")]
  )
  assert out["audio_attn"]["k"][0] == 7


def test_sha256_sees_names_and_values():
  same = {"dec": TREE["dec"], "enc": TREE["enc"]}
  assert trees.sha256(TREE) == trees.sha256(same)
  other = {**TREE, "dec": {"a": np.full((2,), 2.0 + 1e-7)}}
  assert trees.sha256(TREE) != trees.sha256(other)
  assert trees.sha256({"x": TREE["enc"], "dec": TREE["dec"]}) != trees.sha256(TREE)


def test_a_name_that_reads_like_a_path_is_refused():
  with pytest.raises(ValueError, match="'conv/kernel' has a '/'"):
    trees.flatten({"norm": {"conv/kernel": np.ones(2)}})
