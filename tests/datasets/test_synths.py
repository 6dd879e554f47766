"""Recipes, their sampling, and whole data sets against the public generator's."""

import dataclasses
import json
import zlib

import numpy as np
import pytest

from big_audio.datasets import synth_render, synth_sampling, synths, vimh_meta, vimh_records
from big_audio.datasets.vimh_meta import Parameter
from tests.datasets import public

# Of the public generator's labels, those of train before those of test.
LABELS = {
  public.MOOG: 2230900322,
  "vimh-32x32x3_8000Hz_1p0s_32dss_simple_2p": 2176852517,
  public.ENVELOPES: 2016648158,
  "vimh-32x32x1_8000Hz_1p0s_256dss_simple_2p": 511898471,
}


@pytest.mark.parametrize("folder", public.ARGUMENTS)
def test_labels_are_the_public_generators(folder):
  """By their CRC-32."""
  name, arguments = public.ARGUMENTS[folder]
  labels = synth_render.records(synths.build(name, **arguments))["labels"]["value"]
  assert zlib.crc32(np.ascontiguousarray(labels).tobytes()) == LABELS[folder]
  assert labels[:2, :2].tolist() == [[237, 80], [144, 151] if folder == public.MOOG else [46, 52]]


@public.needed
@pytest.mark.parametrize("folder", public.ARGUMENTS)
def test_the_public_generators_data_sets_come_out(folder):
  name, arguments = public.ARGUMENTS[folder]
  recipe = synths.build(name, **arguments)
  path = public.data_set(folder)
  raw = recipe.metadata_json(pickle=True)
  assert raw.pop("generator")["seed"] == 12345 and list(recipe.metadata_json())[-1] == "generator"
  want = json.loads((path / vimh_meta.FILE).read_text())
  for p in want["parameter_mappings"].values():
    p.pop("num_classes", None)  # other readers leave it
  assert json.dumps(raw) == json.dumps(want)  # and in this order
  metadata = vimh_meta.read(path)
  files = [vimh_records.open_records(path / f, metadata, n) for f, n in
           (("train", metadata.train), ("test", metadata.test))]  # fmt: skip
  got = synth_render.records(recipe)
  assert got.dtype == files[0].raw.dtype and len(got) == recipe.size
  want = np.concatenate([f.raw for f in files])
  for field in ("height", "width", "channels", "count", "labels"):
    np.testing.assert_array_equal(got[field], want[field], err_msg=field)
  off = np.abs(got["pixels"].astype(int) - want["pixels"])
  assert off.max() <= 1 and off.mean() < 1e-3
  # dB; of joint planes sums of 32 columns of pixels, of which one may be one off.
  atol = 0.25 if "envelopes" in folder else 5e-3
  for field in ("spec_min", "spec_max"):
    np.testing.assert_allclose(got[field], want[field], rtol=0, atol=atol)


P = (Parameter("a", 0.0, 1.0, 0.5), Parameter("b", 10.0, 13.0, 1.0), Parameter("c", -1, 1, 0.1))


def test_legacy_is_one_uniform_draw_for_each_parameter_in_turn():
  np.random.seed(7)
  want = [[np.random.uniform(p.min, p.max) for p in P] for _ in range(10)]
  order = list(range(10))
  np.random.shuffle(order)
  np.testing.assert_array_equal(synth_sampling.draw(P, 10, 7), want)
  np.testing.assert_array_equal(synth_sampling.draw(P, 10, 7, shuffle=True), np.array(want)[order])


def test_grid_is_row_major_and_whole():
  got = synth_sampling.draw(P[:2], 12, 0, "grid")
  want = [[a, b] for a in (0, 0.5, 1) for b in (10, 11, 12, 13)]
  np.testing.assert_allclose(got, want)
  assert synth_sampling.grid_size(P) == 3 * 4 * 21
  mixed = synth_sampling.draw(P[:2], 12, 0, "grid", shuffle=True)
  assert mixed.tolist() != got.tolist() and sorted(mixed.tolist()) == sorted(got.tolist())


def test_grid_with_jitter_stays_within_half_steps_and_the_range():
  step, centres = np.array([0.5, 1.0]), synth_sampling.draw(P[:2], 12, 0, "grid")
  got = synth_sampling.draw(P[:2], 36, 0, "grid", jitter=0.8)
  off = (got - np.tile(centres, (3, 1))) / step
  assert 0.38 < np.abs(off).max() <= 0.4 and len(np.unique(got[:, 0])) > 20
  assert (got >= [0, 10]).all() and (got <= [1, 13]).all()
  labels = [p.to_class(p.encode(got[:, i])) for i, p in enumerate(P[:2])]
  np.testing.assert_array_equal(labels[1].reshape(3, 3, 4), np.broadcast_to(range(4), (3, 3, 4)))
  with pytest.raises(ValueError, match="12 combinations, and 13 items"):
    synth_sampling.draw(P[:2], 13, 0, "grid")


def test_a_part_of_a_grid_is_spread_over_it_and_never_twice():
  got = synth_sampling.draw(P, 100, 0, "grid")
  cells = np.round((got - [p.min for p in P]) / [p.step for p in P]).astype(int)
  at = np.ravel_multi_index(tuple(cells.T), (3, 4, 21))
  np.testing.assert_allclose(got, np.array([p.min for p in P]) + cells * [p.step for p in P])
  assert (np.diff(at) > 0).all()
  edges = np.arange(101) * 252 // 100  # one in each hundredth of the grid
  assert (edges[:-1] <= at).all() and (at < edges[1:]).all()
  np.testing.assert_array_equal(got, synth_sampling.draw(P, 100, 0, "grid"))
  assert (got != synth_sampling.draw(P, 100, 1, "grid")).any()


def test_sobol_is_even_and_seeded():
  got = synth_sampling.draw(P, 256, 5, "sobol")
  unit = (got - [p.min for p in P]) / [p.max - p.min for p in P]
  for i in range(3):  # one point in each 256th of every dimension, 4 in each cell of 8 x 8
    assert sorted((unit[:, i] * 256).astype(int)) == list(range(256))
    cells = (unit[:, [i, (i + 1) % 3]] * 8).astype(int)
    assert (np.unique(cells, axis=0, return_counts=True)[1] == 4).all()
  np.testing.assert_array_equal(got[:100], synth_sampling.draw(P, 100, 5, "sobol"))
  assert (got != synth_sampling.draw(P, 256, 6, "sobol")).all()


def test_sampling_refuses():
  with pytest.raises(ValueError, match="Did you mean 'sobol'"):
    synth_sampling.draw(P, 4, 0, "sobl")
  with pytest.raises(ValueError, match='goes with sampling="grid"'):
    synth_sampling.draw(P, 4, 0, "sobol", jitter=0.5)
  with pytest.raises(ValueError, match="jitter=2"):
    synth_sampling.draw(P, 4, 0, "grid", jitter=2)


@pytest.mark.parametrize("name", synths.RECIPES)
def test_every_recipe_makes_pictures(name):
  recipe = synths.build(name, size=10)
  out = synth_render.records(recipe)
  assert out["pixels"].shape == (10, 1, recipe.height, recipe.width)
  assert (out["spec_max"] - out["spec_min"] > 20).all()
  assert len(np.unique(out["pixels"].reshape(10, -1), axis=0)) == 10
  large = synths.build(f"{name}_large")
  assert large.size == 64 * synths.build(name).size and large.parameters == recipe.parameters
  # A block's items do not depend on what else is in it.
  values = synth_render.draw(recipe)
  np.testing.assert_array_equal(synth_render.block(recipe, values[3:5]), out[3:5])


def test_numbers_of_recipes():
  heads = {n: synths.build(n).metadata().heads() for n in ("moog_envelope", "moog_resonance")}
  assert heads["moog_envelope"] == dict(
    note_number=3, note_velocity=4, log10_decay_time=5, filter_cutoff=9, filter_resonance=7,
    filter_env_attack=7, filter_env_decay=15, filter_env_sustain=7, filter_env_release=10,
    filter_env_amount=7,
  )  # fmt: skip
  assert heads["moog_resonance"] == dict(
    note_number=3, note_velocity=4, log10_decay_time=6, filter_cutoff=9, filter_resonance=10,
    filter_env_attack=17, filter_env_decay=17, filter_env_release=17,
  )  # fmt: skip
  assert synths.build("moog_resonance").metadata().fixed == dict(
    filter_enabled=1, filter_env_sustain=1, filter_env_amount=0
  )


def test_overrides():
  recipe = synths.build(
    "moog_basic",
    parameters=dict(note_velocity=127, filter_cutoff=(200, 2000, 50), filter_env_amount=(0, 2)),
    spectrogram=dict(window="hann"),
    secs=2,
    shuffle=True,
    pre_emphasis=0.97,
  )
  m = recipe.metadata()
  assert m.names == ("log10_decay_time", "filter_cutoff", "filter_resonance", "filter_env_amount")
  assert m.fixed["note_velocity"] == 127 and m.parameter("filter_cutoff").step == 50
  assert m.parameter("filter_env_amount").step == 2 / 16
  assert m.raw["dataset_name"] == "vimh-32x32x1_8000Hz_2p0s_256dss_simple_4p_shuffled"
  assert m.raw["spectrogram_config"]["window_type"] == "hann"
  plain = dataclasses.replace(recipe, pre_emphasis=0.0)
  wav = synth_render.sounds(m, {k: np.full(1, m.parameter(k).min) for k in m.names})
  assert wav.shape == (1, 16000) and wav.dtype == np.float32
  filtered = np.append(wav[:, :1], wav[:, 1:] - np.float32(0.97) * wav[:, :-1], axis=1)
  for a, b in zip(synth_render.pictures(recipe, wav), synth_render.pictures(plain, filtered),
                  strict=True):  # fmt: skip
    np.testing.assert_array_equal(a, b)
  grid = synths.build("simple_saw", size=20, sampling="grid")
  assert grid.metadata_json()["dataset_name"].endswith("_shuffled")
  assert synths.build("simple_saw", size=20, sampling="grid", shuffle=False).shuffled is False


def test_refusals_name_place_and_fix():
  for kw, match in (
    (dict(width=101), "have 100 frames"),
    (dict(height=41), "has 40 bins"),
    (dict(secs=0.2), "have 20 frames .* or 0.32 s of sound"),
    (dict(heigth=3), "no 'heigth'. Nearest: height"),
    (dict(parameters=dict(note_velocty=(1, 2))), "no 'note_velocty'. Nearest: note_velocity"),
    (dict(parameters=dict(note_velocity=(2, 1, 0.5))), "min <= max"),
    (dict(parameters=dict(note_velocity=(1, 2, 3))), "step <= max - min"),
    (dict(parameters=dict(note_velocity=(1, 128))), r"range in \[0,127\]"),
    (dict(parameters=dict(note_velocity="loud")), "expected a number"),
    (dict(parameters=dict(note_velocity=1, log10_decay_time=0)), "no parameter varies"),
    (dict(channels=2), "expected 1 or 3"),
    (dict(channels=3, temporal=True), "envelopes go with channels=1"),
    (dict(normalize=True), "need a plane"),
    (dict(size=1), "size=1: expected a whole number of 2"),
    (dict(seed=-1), "seed=-1"),
    (dict(pre_emphasis=2), r"\[0,1\]"),
    (dict(spectrogram=dict(hopp=3)), "Nearest: hop"),
    (dict(sampling="girds"), "Did you mean 'grid'"),
  ):
    with pytest.raises(ValueError, match=match):
      synths.build("simple_saw", **kw)
  with pytest.raises(ValueError, match="no 'moog_bassic'. Nearest: moog_basic"):
    synths.build("moog_bassic")
  with pytest.raises(ValueError, match="need values of log10_decay_time"):
    m = synths.build("simple_saw").metadata()
    synth_render.sounds(m, dict(note_velocity=np.ones(2)))
