"""configs/vimh.py: heads from metadata, every variant traced through a step, arguments that fit."""

import json
import math

import jax
import numpy as np
import pytest

from big_audio import config as C
from big_audio import input_pipeline, sharding, train_loop, train_step, trees
from big_audio.datasets import build
from big_audio.objectives import ordinal
from big_audio.tools import make_vimh

VIMH = "configs/vimh.py:size=40,batch=4"


def made(arg):
  """(config, trainer, batch, stats) of a config, with real examples."""
  config = C.with_defaults(C.load(f"{VIMH},{arg}" if arg else VIMH))
  trainer = C.resolve("trainers", config.trainer.name).Trainer(config, C.build_models(config))
  batches = input_pipeline.train_batches(config.input, seed=0)
  batch = {k: v for k, v in next(batches).items() if v.dtype.kind not in "OSU"}
  batches.close()
  return config, trainer, batch, trainer.stats([batch])


def traced(arg):
  config, trainer, batch, stats = made(arg)
  opt, make_state = train_step.build_state(config, trainer, batch, stats, total=10, units={})
  update = train_step.make_update(trainer, opt, accum=1, total=10, max_skipped=0)
  state = jax.eval_shape(make_state, jax.random.key(0), batch, stats)
  new, metrics = jax.eval_shape(update, state, batch, jax.random.key(0))
  same = jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), state, new)
  assert all(jax.tree.leaves(same))
  return config, state["params"], metrics


@pytest.mark.parametrize(
  "arg",
  [
    "net=vit_23k,loss=ordinal",
    "net=convnext_18k,input=db,aux=both",
    "net=cnn_69k,loss=weighted_ce,weights=learned",
    "net=mlp_8.5k,loss=corn,envelopes=both",
    "synth=moog_basic,loss=coral/filter_cutoff=quantized_regression/note_velocity=cross_entropy",
    "synth=moog_basic,loss=normalized_regression,sound_weight=.1",
    "net=cnn_10k,input=leaf,aux=none,classes=256",
  ],
)
def test_variants_are_traced_through_a_step(arg):
  config, params, metrics = traced(arg)
  for head, classes in config.models.heads.outputs.items():
    assert {f"{head}_{k}" for k in ("loss", "accuracy", "within1", "mae")} <= metrics.keys()
    settings = config.trainer.heads[head]
    scale = ordinal.Scale(classes, settings.min, settings.max, settings.step)
    own = {k: settings[k] for k in settings if k in ("unit", "distance", "shape", "width")}
    width = ordinal.OBJECTIVES[settings.loss](scale, **own).width(classes)
    if settings.loss != "coral":  # whose cuts are a vector of their own
      assert params["heads"][head]["kernel"].shape[1] == width


@pytest.mark.parametrize(
  "arg, places",
  [
    ("weights=note_velocity=.5", {"trainer.heads.note_velocity.weight": 0.5,
                                  "trainer.heads.log10_decay_time.weight": 1.0}),
    ("weights=learned", {"trainer.weighting": "learned", "ckpt.best": "val/val/unweighted"}),
    ("dropout=0", {"models.net.dropout": 0.0}),
    ("hidden=48", {"models.heads.hidden": 48}),
    ("net=vit_23k,patch=4,dim=48", {"models.net.patch": 4, "models.net.dim": 48,
                                    "models.heads.hidden": 48}),
    ("wd=.5,clip=.25,lr=.125", {"optimizer.wd": 0.5, "optimizer.clip": 0.25,
                                "optimizer.lr": 0.125}),
    ("sound_weight=.25", {"trainer.sound.weight": 0.25, "trainer.sound.samples": 2560,
                          "trainer.sound.fixed.note_number": 43.35}),
    ("loss=ordinal,unit=physical", {"trainer.heads.note_velocity.unit": "physical"}),
    ("data_seed=7", {"input.data.train.seed": 7, "evals.test.data.seed": 7,
                     "evals.val.data.seed": 7}),
    ("schedule=plateau,patience=3,stop_after=9", {"plateau.patience": 3, "plateau.stop_after": 9,
                                                  "plateau.metric": "val/val/loss"}),
    ("classes=256", {"trainer.heads.note_velocity.step": 1 / 255,
                     "models.heads.outputs.note_velocity": 256}),
    ("epochs=3,batch=8", {"total_epochs": 3, "input.batch_size": 8}),
    ("smoke,epochs=3", {"total_epochs": 3, "input.batch_size": 32}),
  ],
)  # fmt: skip
def test_arguments_reach_their_places(arg, places):
  config = C.load(f"configs/vimh.py:{arg}")
  for place, value in places.items():
    node = config
    for key in place.split("."):
      node = node[key]
    assert node == pytest.approx(value) if isinstance(value, float) else node == value, place


def test_what_the_network_is_shown():
  pp = lambda arg: C.load(f"configs/vimh.py:{arg}").input.data.train.pp
  end = 'keep("image", {}"note_velocity", "note_velocity/value", "log10_decay_time", '
  end += '"log10_decay_time/value")'
  assert pp("") == "spec_numbers()|value_range(-1, 1)|" + end.format('"aux", ')
  assert pp("aux=none") == "value_range(-1, 1)|" + end.format("")
  both = "spec_numbers()|decay_time(0.01)|value_range(-1, 1)|" + end.format('"aux", "decay_time", ')
  assert pp("aux=both") == both
  assert pp("aux=none,input=db") == "spec_db(-100, 20)|" + end.format("")
  assert "|spec_augment(4, 4)|keep(" in pp("augment=4")
  config = C.load("configs/vimh.py:augment=4")
  assert not any("spec_augment" in e.data.pp for e in config.evals.values())


def test_heads_are_those_of_the_data():
  config = C.load("configs/vimh.py:synth=moog_basic")
  want = dict(note_velocity=6, log10_decay_time=11, filter_cutoff=19, filter_resonance=10)
  assert C.to_dict(config.models.heads.outputs) == want
  _, params, _ = traced("synth=moog_basic,loss=cross_entropy")
  assert {k: v["bias"].shape[0] for k, v in params["heads"].items()} == want
  config = C.load("configs/vimh.py:synth=moog_basic,classes=256")
  assert set(config.models.heads.outputs.values()) == {256}


def test_uniform_logits_cost_the_sum_of_logarithms_and_gradients_reach_every_head():
  _, trainer, batch, stats = made("synth=moog_basic,loss=cross_entropy")
  variables = jax.jit(trainer.init)(jax.random.key(0), batch, stats)
  variables["params"]["heads"] = jax.tree.map(np.zeros_like, variables["params"]["heads"])
  total = lambda p: trainer.loss(
    {**variables, "params": p}, batch, jax.random.key(0), step=0, total_steps=1, train=False
  ).value  # fmt: skip
  uniform = sum(math.log(k) for k in (6, 11, 19, 10))
  np.testing.assert_allclose(jax.jit(total)(variables["params"]), uniform, rtol=1e-5)
  grad = jax.jit(jax.grad(lambda p: total(p).sum()))(variables["params"])
  for head, g in grad["heads"].items():
    assert np.abs(g["kernel"]).max() > 0 and np.abs(g["bias"]).max() > 0, head


def test_pictures_reach_the_net_as_they_are():
  """Row 0 is the lowest frequency, column 0 the first frame: nothing is mirrored or turned."""
  config, _, batch, _ = made("")
  kw = {k: v for k, v in C.to_dict(config.input.data.train).items() if k != "pp"}
  source = build.build(kw.pop("source"), **kw)
  pictures = np.stack([source[i]["image"] for i in range(len(source))]).astype(np.float32)
  for image in batch["image"]:
    away = np.abs(pictures / 127.5 - 1 - image).max(axis=(1, 2, 3))
    assert away.min() < 1e-6
    (at,) = np.flatnonzero(away < 1e-6)
    assert np.abs(pictures[at] - pictures[at][:, ::-1]).max() > 0


def test_no_test_item_is_trained_on_or_chooses_a_checkpoint(tmp_path):
  arg = ["generate", "--config-name", "simple_saw", "--size", "60", "--output-dir", str(tmp_path)]
  assert make_vimh.main(arg) == 0
  (folder,) = tmp_path.iterdir()
  before = {p.name: p.read_bytes() for p in folder.iterdir()}
  for where in ("size=60", f"dir={folder}"):
    config = C.load(f"configs/vimh.py:{where}")
    seen = {}
    for name, data in (("train", config.input.data.train), ("test", config.evals.test.data),
                       ("val", config.evals.val.data)):  # fmt: skip
      kw = {k: v for k, v in C.to_dict(data).items() if k != "pp"}
      source = build.build(kw.pop("source"), **kw)
      seen[name] = [source[i]["id"] for i in range(len(source))]
    assert [len(v) for v in seen.values()] == [44, 12, 4]
    assert len({i for v in seen.values() for i in v}) == 60
    assert config.ckpt.best == "val/val/loss"
  assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


@pytest.mark.parametrize(
  "arg, words",
  [
    ("synth=simple_sw", "simple_saw"),
    ("net=cnn_10", '"cnn_10k"'),
    ("loss=cross_entropi", "cross_entropy"),
    ("loss=ordinal/velocity=coral", "note_velocity"),
    ("loss=note_velocity=coral", "begins with that of all heads"),
    ("weights=note_velocity", "expected HEAD="),
    ("loss=ordinal/note_velocity", "expected HEAD="),
    ("loss=ordinal/note_velocity=corn/note_velocity=coral", "given twice"),
    ("weights=note_velocity=heavy", "expected a number"),
    ("weights=note_velocity=-1", "expected a number of 0 or more"),
    ("net=cnn_10k,patch=4", "takes no patch"),
    ("net=convnext_18k,dropout=.3", "takes no dropout"),
    ("input=leaf", "use aux=none"),
    ("input=leaf,aux=none,augment=3", "sees no picture"),
    ("patience=3", "schedule=plateau"),
    ("unit=physical", "losses ordinal"),
    ("form=pickle", "needs dir"),
    ("lr=-1", "at least 0"),
    ("epochs=-1", "at least 0"),
    ("dropout=1.5", "a share"),
    ("input=db,envelopes=both", "no levels in dB"),
  ],
)
def test_arguments_that_do_not_fit(arg, words):
  with pytest.raises(ValueError, match=words):
    made(arg)


@pytest.mark.parametrize(
  "arg, words",
  [
    ("dir=x,synth=moog_basic", "has its own sounds"),
    ("dir=/no/such/folder", "make_vimh generate"),
    ("dir=x,input=leaf,aux=none", "pictures only"),
    ("dir=x,envelopes=both", "has its own sounds"),
    ("size=5", "at least 20"),
  ],
)
def test_arguments_of_a_folder_that_do_not_fit(arg, words):
  with pytest.raises(ValueError, match=words):
    C.load(f"configs/vimh.py:{arg}")


def test_planes_without_levels_are_not_taken_for_levels(tmp_path):
  arg = ["generate", "--config-name", "simple_saw", "--size", "40", "--output-dir", str(tmp_path)]
  assert make_vimh.main([*arg, "--temporal-envelope", "--joint-scaling"]) == 0
  (folder,) = tmp_path.iterdir()
  C.load(f"configs/vimh.py:dir={folder}")
  with pytest.raises(ValueError, match="no levels in dB"):
    C.load(f"configs/vimh.py:dir={folder},input=db")
  with pytest.raises(ValueError, match="one range hide the levels"):
    C.load(f"configs/vimh.py:dir={folder},aux=both")


@pytest.mark.slow
def test_a_plateau_ends_a_run_with_all_its_numbers(tmp_path):
  """Rate halved without progress, and stopped; what waits for the end is measured then."""
  arg = "size=60,batch=16,epochs=8,lr=1e-9,schedule=plateau,patience=2,stop_after=4"
  config = C.load(f"configs/vimh.py:{arg}")
  mesh = sharding.make_mesh(jax.devices()[:1])
  last = train_loop.train(config, str(tmp_path), mesh=mesh)
  assert last["step"] < 8 * 3
  assert last["train/lr"] < 1e-9
  assert {"val/test/loss", "val/audio/degenerate", "val/confusion/items"} <= last.keys()
  again = train_loop.train(config, str(tmp_path), mesh=mesh)
  assert again == last


def test_a_flag_cannot_move_test_items_into_training(tmp_path):
  """Another size or share for the training data alone would cut them otherwise."""
  for flag in ("input.data.train.size=120", "evals.val.data.seed=1"):
    config = C.load("configs/vimh.py:size=60,batch=16,epochs=1", [flag])
    with pytest.raises(ValueError, match=r"config\.evals\.\w+\.data: (size|seed)=.*share items"):
      train_loop.train(config, str(tmp_path), mesh=sharding.make_mesh(jax.devices()[:1]))


def learn(tmp_path, arg, seed, overrides=()):
  config = C.load(f"configs/vimh.py:{arg}", [f"seed={seed}", *overrides])
  mesh = sharding.make_mesh(jax.devices()[:1])
  return train_loop.train(config, str(tmp_path), mesh=mesh)


def test_a_smoke_run_learns_and_writes_all_that_is_promised(tmp_path):
  last = learn(tmp_path, "smoke", 0)
  rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
  assert last["train/loss"] < rows[0]["train/loss"]
  for name in ("test/log10_decay_time_mae", "audio/estimate/snr", "audio/constant/snr",
               "confusion/note_velocity/accuracy"):  # fmt: skip
    assert np.isfinite(last[f"val/{name}"]), name
  names = [p.name for p in (tmp_path / "samples" / str(last["step"])).iterdir()]
  assert "confusion_note_velocity.png" in names and "audio.csv" in names
  assert names.count("000_estimate.wav") == 1


def test_parameters_match_the_name_of_the_net():
  _, params, _ = traced("net=cnn_10k,aux=none")
  assert trees.count(params) == 10_411
  _, params, _ = traced("net=vit_23k,aux=none")
  assert trees.count(params) == 22_779


@pytest.mark.slow
@pytest.mark.parametrize("arg", ["size=4096", "size=4096,aux=none"])
def test_learning_floors(tmp_path, arg):
  """Medians of three seeds on the test items, against a network with its eyes shut."""
  runs = [learn(tmp_path / str(s), f"{arg},audio=false", s) for s in range(3)]
  of = lambda k: float(np.median([r[f"val/test/{k}"] for r in runs]))
  assert of("log10_decay_time_mae") <= 0.03
  assert of("log10_decay_time_within1") >= 0.99
  if "none" in arg:  # the picture alone does not hold the level: the share of the majority
    assert of("note_velocity_accuracy") < 0.56
    return
  assert of("note_velocity_accuracy") >= 0.88
  blind = ["input.data.train.pp=" + shut(arg), *(f"evals.{k}.data.pp=" + shut(arg) for k in
           ("val", "test", "confusion"))]  # fmt: skip
  control = learn(tmp_path / "blind", f"{arg},audio=false", 0, blind)
  assert control["val/test/log10_decay_time_mae"] > 0.4
  assert control["val/test/note_velocity_accuracy"] < 0.56


def shut(arg):
  """The preprocessing with all pictures grey and all levels equal."""
  pp = C.load(f"configs/vimh.py:{arg}").input.data.train.pp
  return pp.replace("value_range(-1, 1)", "value_range(0, 0)").replace(
    "spec_numbers()", "spec_numbers()|value_range(0, 0, key='aux')"
  )
