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


def cells_of(values, parameters=P):
  at = [np.round((values[:, i] - p.min) / p.step).astype(int) for i, p in enumerate(parameters)]
  return np.stack(at, axis=1)


def test_jitter_is_uniform_in_the_part_of_a_step_that_lies_in_the_range():
  parameters = P[:2]  # of 3 and 4 classes
  got = synth_sampling.draw(parameters, 12_000, 0, "grid", jitter=0.8)
  for i, (p, at) in enumerate(zip(parameters, cells_of(got, parameters).T, strict=True)):
    for k, centre in enumerate(p.values()):
      mine = got[at == k, i]
      lo, hi = max(centre - 0.4 * p.step, p.min), min(centre + 0.4 * p.step, p.max)
      assert lo <= mine.min() and mine.max() <= hi
      counts = np.histogram(mine, 8, (lo, hi))[0]
      assert np.abs(counts / len(mine) * 8 - 1).max() < 0.2  # nothing is heaped up at the ends
      assert np.mean(mine == mine[0]) < 0.01
  np.testing.assert_array_equal(
    cells_of(synth_sampling.draw(parameters, 12, 0, "grid", jitter=0.8), parameters),
    cells_of(synth_sampling.draw(parameters, 12, 0, "grid"), parameters),
  )


@pytest.mark.parametrize("size", [13, 14, 17, 25, 100])
@pytest.mark.parametrize("shuffle", [False, True])
def test_combinations_that_come_again_are_in_train_or_in_test(size, shuffle):
  got = synth_sampling.draw(P[:2], size, 3, "grid", jitter=1.0, shuffle=shuffle)
  cells = [tuple(c) for c in cells_of(got, P[:2])]
  train = synth_sampling.train_items(size)
  assert not set(cells[:train]) & set(cells[train:]) and len(set(cells)) == 12
  counts = [cells.count(c) for c in set(cells)]
  assert max(counts) - min(counts) <= 1 + size / 12 / 2
  assert (cells == sorted(cells)) != shuffle
  np.testing.assert_array_equal(
    got, synth_sampling.draw(P[:2], size, 3, "grid", jitter=1.0, shuffle=shuffle)
  )


def test_a_repeated_grid_has_no_items_of_train_in_test():
  recipe = synths.build("simple_saw", sampling="grid", jitter=1, size=600)
  records, cut = synth_render.records(recipe), synth_sampling.train_items(600)
  labels = [bytes(r) for r in records["labels"]["value"]]
  assert recipe.shuffled and not set(labels[:cut]) & set(labels[cut:])
  assert len(set(labels)) > 590


def test_grids_whose_items_would_be_copies_are_refused():
  for parameters, size, jitter, match in (
    (P[:2], 13, 0.0, "12 combinations, and 13 items .* size=12 or less"),
    (P[:2], 13, 1e-3, "jitter=0.001 is too small"),
    (P[:2], 120, 0.03, "makes 11 different items of each"),
    ((Parameter("a", 0.0, 1.0, 1e-3),), 10, 0.0, "1001 classes, .* a step of 0.003937 or more"),
    ((Parameter("a", 0.0, 1.0, 1 / 255),), 10, 1.0, "256 classes"),
  ):
    with pytest.raises(ValueError, match=match):
      synth_sampling.draw(parameters, size, 0, "grid", jitter=jitter)
    synth_sampling.draw((Parameter("a", 0.0, 1.0, 1 / 254),), 255, 0, "grid")
  with pytest.raises(ValueError, match="synth 'simple_saw': the grid has 72 combinations"):
    synths.build("simple_saw", sampling="grid")


@pytest.mark.parametrize("size", [2, 30, 100, 200, 251])
def test_a_part_of_a_grid_is_spread_over_it_and_never_twice(size):
  got = synth_sampling.draw(P, size, 0, "grid")
  cells = cells_of(got)
  np.testing.assert_allclose(got, np.array([p.min for p in P]) + cells * [p.step for p in P])
  at = np.ravel_multi_index(tuple(cells.T), (3, 4, 21))
  assert (np.diff(at) > 0).all()
  for i, p in enumerate(P):
    counts = np.bincount(cells[:, i], minlength=p.count())
    assert np.abs(counts - size / p.count()).max() < 2 + 0.06 * size / p.count()
  np.testing.assert_array_equal(got, synth_sampling.draw(P, size, 0, "grid"))
  assert (got != synth_sampling.draw(P, size, 1, "grid")).any()


def test_a_part_of_a_huge_grid():
  parameters = [Parameter(f"p{i}", 0.0, 1.0, 1 / 16) for i in range(20)]  # 4e24 combinations
  got = synth_sampling.draw(parameters, 340, 0, "grid", jitter=0.5)
  cells = cells_of(got, parameters)
  assert len(np.unique(cells, axis=0)) == 340
  for at in cells.T:  # 20 of each on average; independent draws would be 4.3 off
    assert np.std(np.bincount(at, minlength=17)) < 2


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


def test_methods_do_not_share_their_random_numbers():
  """Equal seeds of two methods: the shift of one is not the jitter of another."""
  sobol = synth_sampling.draw(P, 4, 0, "sobol")
  rng = np.random.default_rng([0, synth_sampling.METHODS.index("sobol")])
  shift = rng.integers(2**30, size=3)
  unit = (shift + 0.5) / 2**30  # the sequence starts with 0
  np.testing.assert_allclose(sobol[0], [p.min + u * (p.max - p.min) for p, u in zip(P, unit)])
  grid = synth_sampling.draw(P[:2], 12, 0, "grid", shuffle=True)
  order = np.random.default_rng([0, synth_sampling.METHODS.index("grid")]).permutation(12)
  np.testing.assert_array_equal(grid, synth_sampling.draw(P[:2], 12, 0, "grid")[order])


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
    (dict(parameters=dict(log10_decay_time=(-5, 0))), r"range in \[-4,2\], got \[-5, 0\]"),
    (dict(parameters=dict(log10_decay_time=(0, 300))), r"range in \[-4,2\]"),
    (dict(parameters=dict(note_number=128)), r"range in \[0,127\]"),
    (dict(parameters=dict(filter_resonance=1.5)), "feedback of the filter"),
    (dict(parameters=dict(filter_env_attack=-1)), r"filter_env_attack \(.*range in \[0,60\]"),
    (dict(parameters=dict(filter_enabled=(0, 1))), "expected one whole number for all items"),
    (dict(parameters=dict(filter_enabled=0.5)), "expected one whole number for all items"),
    (dict(parameters=dict(note_number=(100, 120))), "voice 'simple' has .* below sr/2 = 4000 Hz"),
    (dict(parameters=[1, 2]), r"parameters=\[1, 2\]: expected \{name"),
    (dict(parameters=None), "parameters=None: expected"),
    (dict(spectrogram=5), "spectrogram=5: expected"),
    (dict(spectrogram=None), "spectrogram=None: expected"),
    (dict(spectrogram=dict(type="mel", freq_min="x")), "freq_min='x': expected a number"),
    (dict(spectrogram=dict(freq_max_ratio=None)), "freq_max_ratio=None: expected a number"),
    (dict(spectrogram=dict(n_fft=2**40)), "n_fft=1099511627776: expected 65536 or less"),
    (dict(spectrogram=dict(hop=10**300)), "hop=10{19}: expected 65536 or less"),
    (dict(name="x"), "no 'name'. Nearest"),
    (dict(spectrogram=dict(type="mel"), height=500), "500 mel bands of n_fft=80: too many"),
    (dict(pre_emphasis="a"), "pre_emphasis='a'"),
    (dict(temporal="yes"), "temporal='yes': expected True or False"),
    (dict(joint_scaling=1), "joint_scaling=1: expected True or False"),
    (dict(shuffle="no"), "shuffle='no': expected True or False"),
    (dict(jitter="x"), "jitter='x'"),
    (dict(jitter=True), "jitter=True"),
    (dict(secs=1e308), "secs=1e.308: expected seconds of 1 to 134217728 samples"),
    (dict(secs=10**400), "secs=1000"),
    (dict(secs="1"), "secs='1'"),
    (dict(secs=1e-9), "secs=1e-09"),
    (dict(sr=10**9), "sr=1000000000: expected"),
    (dict(size=4_000_000_000), "size=4000000000: expected a whole number of 2 to 2147483648"),
    (dict(size="many"), "size='many'"),
    (dict(height=60_000, width=60_000), "beyond 16777216 bytes"),
    (dict(channels="1"), "channels='1'"),
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
  for name in (3, None):
    with pytest.raises(ValueError, match=f"expected the name of a recipe, got {name}"):
      synths.build(name)
  for name, kw, match in (
    ("pluck", dict(note_number=(10, 40)), "14.5676 to 82.4069 Hz; voice 'pluck' has those of 20"),
    ("pluck", dict(excitation_seed=(0, 9, 1)), "noise of the pluck.*one whole number"),
    ("pluck", dict(excitation_seed=0.5), "one whole number"),
    ("additive", dict(note_number=(36, 108, 1)), "below sr/2 = 4000 Hz"),
    ("fm", dict(fm_index=-1), r"range in \[0,100\]"),
  ):
    with pytest.raises(ValueError, match=match):
      synths.build(name, parameters=kw)
  with pytest.raises(ValueError, match="need values of log10_decay_time"):
    m = synths.build("simple_saw").metadata()
    synth_render.sounds(m, dict(note_velocity=np.ones(2)))
