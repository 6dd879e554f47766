"""Every config runs in smoke form, and every variant can be traced through a training step."""

import dataclasses
import inspect
import json

import jax
import numpy as np
import pytest

from big_audio import config as C
from big_audio import optim, sharding, train_loop, train_step
from big_audio.evaluators import audio_distance
from big_audio.nn import quantize, rvq
from big_audio.objectives import spectral
from big_audio.samplers import ode
from big_audio.tools import report
from big_audio.trainers import autoencode
from big_audio.trainers.adversary import Adversary
from big_audio.trainers.flow_loss import FlowLoss

MEANFLOW = "configs/meanflow.py:smoke"


def test_smoke_run_writes_all_that_is_promised(tmp_path):
  config = C.load(MEANFLOW, ["evals.val.log_percent=50", "evals.distance.log_percent=100"])
  last = train_loop.train(config, str(tmp_path), mesh=sharding.make_mesh(jax.devices()[:1]))
  assert last["step"] == 30
  for row in ("identity", "zero", "ae", "nfe1", "nfe2", "nfe4"):
    assert np.isfinite(last[f"val/distance/{row}/mel"])
  assert last["val/distance/kbps"] == pytest.approx(1.5)
  names = [p.suffix for p in (tmp_path / "samples" / "30").iterdir()]
  assert names.count(".png") == 4 and names.count(".wav") == 16
  with open(report.write_report(str(tmp_path))) as f:
    html = f.read()
  assert "<audio" in html and "data:image/png" in html
  with open(tmp_path / "metrics.jsonl") as f:
    first = json.loads(next(f))
  assert last["train/ae_loss"] < first["train/ae_loss"]


SHAPES = {"notes": ("wav", (2, 4800, 1)), "digits": ("image", (2, 8, 8, 1))}


def build(data, arg):
  """(config, trainer, batch, stats) of a smoke config."""
  config = C.with_defaults(C.load(f"{MEANFLOW},data={data},{arg}"))
  trainer = C.resolve("trainers", config.trainer.name).Trainer(config, C.build_models(config))
  key, shape = SHAPES[data]
  batch = {key: np.random.default_rng(0).standard_normal(shape, np.float32)}
  return config, trainer, batch, trainer.stats([batch])


@pytest.mark.parametrize(
  "data, arg",
  [
    ("digits", "method=ae"),
    ("digits", "method=imf,net=dit,tokens=patch"),
    pytest.param("notes", "method=alpha,net=mixer_flow,tokens=mdct", marks=pytest.mark.slow),
    *(("notes", f"method={m}") for m in ("ae", "fm", "mf", "imf,domain=mdct")),
    ("notes", "method=imf,net=dit"),
    ("notes", "method=imf,quantizer=rvq"),
    *(
      pytest.param("notes", f"method=imf,{more}", marks=pytest.mark.slow)
      for more in (
        "domain=stft",
        "net=mlp_flow",
        "net=mixer_flow",
        "net=mixer_flow,domain=mdct",
        "kbps=2.4",
        "head=mdct",
      )
    ),
  ],
)
def test_every_variant_is_traced_through_a_step(data, arg):
  config, trainer, batch, stats = build(data, arg)
  opt, make_state = train_step.build_state(config, trainer, batch, stats, total=10, units={})
  update = train_step.make_update(
    trainer, opt, accum=1, total=10, max_skipped=0, phase=train_step.phase(trainer, 9, 10)
  )
  state = jax.eval_shape(make_state, jax.random.key(0), batch, stats)
  new, metrics = jax.eval_shape(update, state, batch, jax.random.key(0))
  same = jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), state, new)
  assert all(jax.tree.leaves(same))
  assert {"loss", "grad_norm"} <= metrics.keys()


@pytest.mark.parametrize("method", ["ae", "fm", "mf", "imf", "alpha"])
@pytest.mark.parametrize("net", ["mlp_flow", "mixer_flow", "convnext1d", "dit"])
@pytest.mark.parametrize(
  "data, tokens",
  [
    ("digits", "patch"),
    pytest.param("digits", "row_dct", marks=pytest.mark.slow),
    pytest.param("notes", "mdct", marks=pytest.mark.slow),
    pytest.param("notes", "reshape", marks=pytest.mark.slow),
  ],
)
def test_the_matrix_is_traced(data, tokens, net, method):
  _, trainer, batch, stats = build(data, f"tokens={tokens},net={net},method={method}")
  assert trainer.method == method and type(trainer.net).__module__.endswith(net)
  variables = jax.eval_shape(trainer.init, jax.random.key(0), batch, stats)
  loss = lambda v, b, step: (
    trainer.loss(v, b, jax.random.key(0), step=step, total_steps=10, train=True).value
  )
  assert jax.eval_shape(loss, variables, batch, 0).shape == (2,)


@pytest.mark.parametrize(
  "data, arg",
  [
    pytest.param("digits", "method=imf,net=dit,tokens=patch", marks=pytest.mark.slow),
    pytest.param("notes", "method=alpha,net=convnext1d,tokens=reshape", marks=pytest.mark.slow),
  ],
)
def test_some_of_the_matrix_learn(data, arg):
  config, trainer, batch, stats = build(data, arg)
  opt, make_state = train_step.build_state(config, trainer, batch, stats, total=20, units={})
  update = jax.jit(
    train_step.make_update(
      trainer, opt, accum=1, total=20, max_skipped=0, phase=train_step.phase(trainer, 0, 20)
    )
  )
  state, errors = jax.jit(make_state)(jax.random.key(0), batch, stats), []
  for _ in range(8):
    state, metrics = update(state, batch, jax.random.key(0))
    errors.append(float(metrics["ae_mse"]))
    assert np.isfinite(float(metrics["loss"]))
  assert errors[-1] < errors[0]
  out = jax.jit(lambda v, b, k: trainer.reconstruct(v, b, k, nfe=2))(
    {"params": state["params"], **state["vars"]}, batch, jax.random.key(0)
  )
  key, shape = SHAPES[data]
  assert out[key].shape == out["ae"].shape == shape and out["bits"].shape == (2,)
  assert np.isfinite(out[key]).all()


@pytest.mark.parametrize(
  "arg, words",
  [
    ("methd=ae", '"method"'),
    ("method=imff", '"imf"'),
    ("data=audio_dir", "dir=PATH"),
    ("data=digits,kbps=2.4", "does not take kbps"),
    ("tokens=mdct,domain=stft", "does not take domain"),
    ("tokens=mdct,head=mdct", "does not take head"),
    ("head=mdtc", '"mdct"'),
    ("data=audio_dir,dir=x,channels=2,classifier=x", "hear one channel"),
    ("data=digits,tokens=mdct", "use flat, patch, block_dct, row_dct"),
    ("data=notes,tokens=patch", "use codec, mdct, reshape"),
    ("data=digits,tokens=codec", "use flat, patch"),
    ("data=digits,net=dit", "tokens=patch, block_dct or row_dct"),
    ("data=notes,dir=x", "does not take dir"),
    ("data=audio_dir,dir=x,train=a", "all of train, validation and test"),
    ("method=ae,gan=refiner", "gan=refiner judges samples.*method=ae.*Use gan=codec"),
    ("gan=codec,begin=30", "Use gan_begin below 28"),
    ("gan=codec,gan_begin=70", "Use gan_begin below 58"),
    ("gan=refiner,gan_begin=40", "gan=refiner does not take gan_begin"),
    ("method=ae,joint", "method=ae does not take joint"),
    ("tokens=mdct,joint", "does not take joint"),
    ("data=digits,quantizer=rvq", "use fsq or none"),
    ("tokens=mdct,quantizer=kl", "use fsq or none"),
    ("quantizer=kl,kbps=2", "quantizer=kl does not take kbps"),
    ("quantizer=none,coded_kbps=1", "does not take coded_kbps"),
    ("data=digits,quantizer=none,bits=32", "does not take bits"),
    ("data=digits,tokens=patch,bits=62", "multiple of the 4 tokens"),
    ("data=digits,bits=262", "below the 262 bits of the image"),
    ("guidance=fixed", "data=notes does not take guidance"),
    ("data=digits,method=fm,guidance=fixed", "method=fm does not take guidance"),
    ("v_head=2", "net=convnext1d does not take v_head"),
    ("method=alpha,warmup=fm", "method=alpha does not take warmup"),
    ("sampler=hoin", '"heun"'),
  ],
)
def test_arguments_that_do_not_fit(arg, words):
  with pytest.raises(ValueError, match=words):
    C.load(f"configs/meanflow.py:{arg}")


@pytest.mark.parametrize("data", ["audio_dir", "mnist"])
def test_a_folder_reaches_every_data_set(data):
  config = C.to_dict(C.load(f"configs/meanflow.py:data={data},dir=/there"))
  sets = [config["input"]["data"]["train"]]
  for cfg in config["evals"].values():
    sets += [cfg["data"]] if "source" in cfg["data"] else cfg["data"].values()
  assert len(sets) > 3
  assert all((s["source"], s["dir"]) == (data, "/there") for s in sets)
  assert sets[0]["split"] == "train" and not any(s["split"] == "train" for s in sets[1:])


@pytest.mark.parametrize(
  "arg, part",
  [
    ("data=notes", "train"),  # its classifier has a world of its own
    ("data=notes,tokens=mdct", "train"),
    ("data=audio_dir,dir=x", "codec"),
    ("data=audio_dir,dir=x,tokens=reshape,method=ae", "codec"),
    ("data=digits", "codec"),
    ("data=mnist,dir=x", "codec"),
  ],
)
def test_a_classifier_measures_what_it_was_not_trained_on(arg, part):
  config = C.load(f"configs/meanflow.py:{arg},classifier=W")
  assert config.input.data.train.split == part and "fid" not in C.load(f"{MEANFLOW},{arg}").evals
  fid = C.to_dict(config.evals.fid)
  assert fid["aux"] == {"embed": "W:embed"} and fid["log_percent"] == 100
  assert {s["split"] for s in fid["data"].values()} == {"validation", "test"}
  assert fid["nfe"] == [0] if "method=ae" in arg else 1 in fid["nfe"]
  assert C.load(f"configs/meanflow.py:{arg}").input.data.train.split == "train"


@pytest.mark.parametrize(
  "arg, pesq",
  [
    ("data=audio_dir,dir=x", "pesq_nb"),
    ("data=audio_dir,dir=x,sr=16000,tokens=mdct", "pesq_wb"),
    ("data=audio_dir,dir=x,sr=44100", None),
    ("data=audio_dir,dir=x,smoke", None),
    ("data=notes", None),
  ],
)
def test_speech_is_scored_where_scores_are_defined(arg, pesq):
  evals = C.to_dict(C.load(f"configs/meanflow.py:{arg}").evals)
  assert ("perceptual" in evals) == (pesq is not None)
  if pesq:
    own = evals["perceptual"]
    assert own["measures"] == [pesq, "stoi", "visqol_speech"] and own["nfe"] == [1, 2, 4]
    assert own["log_percent"] == 100 and own["limit"] == 32


@pytest.mark.parametrize("arg", ["sr=44100", "sr=22050", "sr=11025,secs=0.65", "secs=0.25"])
def test_rates_and_lengths_fit_whole_tokens(arg):
  config = C.load(f"{MEANFLOW},method=ae,{arg}")
  codec = C.build_models(config)["codec"]
  samples = int(config.input.data.train.pp.split("samples=")[1].split(",")[0])
  wav = jax.ShapeDtypeStruct((1, samples, 1), np.float32)
  stats = {k: np.ones(3 * codec.hop, np.float32) for k in ("mean", "std")}
  out, _ = jax.eval_shape(codec.init_with_output, jax.random.key(0), wav, stats)
  rate = codec.sr / codec.hop
  assert out[0].shape == wav.shape and abs(rate - (50 if codec.sr <= 16000 else 75)) < 1


@pytest.mark.parametrize(
  "override, words",
  [
    ("input.num_threds=1", '"num_threads"'),
    ("evals.val.log_stps=1", "log_stps"),
    ("plateau={'metric': 'val/vall/loss'}", "val/val/"),
    ("plateau={'metrc': 'val/val/loss'}", '"metric"'),
  ],
)
def test_overrides_that_do_not_fit(override, words):
  with pytest.raises(ValueError, match=words):
    train_loop.train(C.load(MEANFLOW, [override]), "never_written")


def test_rates_and_streams_are_reached_by_overrides():
  config = C.load(MEANFLOW, ["trainer.quantizer_dropout=0.5", "models.codec.causal=True"])
  assert config.trainer.quantizer_dropout == 0.5 and config.models.codec.causal


def keywords(*fns):
  """{keyword: its default} of functions."""
  params = [p for fn in fns for p in inspect.signature(fn).parameters.values()]
  return {p.name: p.default for p in params if p.kind is p.KEYWORD_ONLY}


def settings(*args, part="trainer"):
  """{key: its values} of a part of several configs."""
  out = {}
  for arg in args:
    node = C.to_dict(C.load(f"configs/meanflow.py:{arg}"))
    for name in part.split("."):
      node = node[name]
    for k, v in node.items():
      out.setdefault(k, []).append(v)
  return out


KINDS = ("net=dit", "method=alpha", "joint")
# What the config itself decides, and the names of things.
OWN = {
  "name",
  "method",
  "tokens",
  "quantizer",
  "key",
  "domain",
  "weights",
  "losses",
  "sample_weight",
  "net",
}


@pytest.mark.parametrize(
  "trainer, args, absent",
  [
    ("flow", [f"tokens=mdct,{k}" for k in KINDS[:2]] + ["data=digits"], {"net"}),
    # `gan` needs a model of its own: it is a key where gan= is given.
    ("autoencode", [*KINDS, "gan=codec"], set()),
  ],
)
def test_every_setting_of_a_trainer_is_a_key_with_its_default(trainer, args, absent):
  module = C.resolve("trainers", trainer)
  known, found = keywords(module.Trainer._configure, FlowLoss.__init__), settings(*args)
  assert set(known) == set(found) | absent
  # What None stands for, since a method without use for it refuses any other value.
  known |= dict(ratio=0.5, v_weight=1.0, alpha_begin_percent=0.0, alpha_end_percent=100.0)
  for key in set(found) - OWN - {"joint", "gan"}:
    assert found[key] == [known[key]] * len(found[key]), key
  # Where a setting means nothing it is no key: a flag for it is an error.
  for arg, key in (("method=fm", "ratio"), ("method=fm", "guidance"), ("method=ae", "sigma"),
                   ("method=imf", "alpha_end_percent"), ("method=alpha", "warmup"),
                   ("net=mlp_flow", "v_weight"), ("method=imf", "joint")):  # fmt: skip
    with pytest.raises(ValueError, match=f"no key '{key}'"):
      C.load(f"configs/meanflow.py:{arg}", [f"trainer.{key}=1"])


def test_every_setting_of_models_and_adversary_is_a_key_with_its_default():
  defaults = lambda cls: {f.name: f.default for f in dataclasses.fields(cls)}
  own = {"model", "latent", "width", "depth", "hidden", "window", "heads", "dtype"}
  n_a = {"parent", "name", "variant"}
  for net in ("mlp_flow", "mixer_flow", "convnext1d", "dit"):
    known = defaults(C.resolve("models", net).Model)
    found = settings(f"net={net},tokens=mdct", f"net={net},data=digits,tokens=patch",
                     part="models.net")  # fmt: skip
    assert set(known) - n_a == set(found) - {"model"}
    refiner = settings(f"net={net}", part="models.refiner")
    assert set(found) - set(refiner) <= {"guidance", "classes", "coder_depth", "positions"}
    for key in set(found) - own - {"dim", "tokens", "positions"}:
      assert set(found[key]) == {known[key]}, (net, key)
  for part, model, mine in (
    ("codec", "codec", {"sr", "quantizer"}), ("prior", "code_prior", {"sizes"}),
    ("discriminator", "discriminator", {"windows"}),
  ):  # fmt: skip
    known = defaults(C.resolve("models", model).Model)
    found = settings("gan=codec", part=f"models.{part}")
    assert set(known) - n_a == set(found) - {"model"}
    for key in set(found) - mine - {"model"}:
      assert found[key] == [known[key]], (part, key)
  for name, cls in (("fsq", quantize.FSQ), ("rvq", rvq.RVQ), ("kl", rvq.Continuous)):
    known, found = defaults(cls), settings(f"quantizer={name}", part="models.codec.quantizer")
    assert set(known) - n_a == set(found) - {"name"}
    for key in set(found) - {"name", "levels", "stages", "learn", "weight"}:
      assert found[key] == [known[key]], (name, key)
  known = defaults(Adversary)
  for of, absent in (("codec", set()), ("refiner", {"begin_percent"})):
    found = settings(f"gan={of}", part="trainer.gan")
    assert set(known) - set(found) == absent and found.pop("of") == [of]
    assert found.pop("begin_percent", [30.0]) == [30.0]  # None stands for it
    assert all(found[k] == [known[k]] for k in found)


def test_settings_reach_the_trainer():
  flags = ["trainer.p=0.5", 'trainer.guidance={"kind":"fixed","omega":2.0}', "trainer.eps=1e-4",
           "trainer.t_dist={'kind': 'uniform'}", "trainer.sampler=euler",
           "trainer.warmup=fm", "trainer.warmup_percent=10"]  # fmt: skip
  for arg in ("method=imf", "data=digits"):
    config = C.with_defaults(C.load(f"{MEANFLOW},{arg}", flags))
    trainer = C.resolve("trainers", config.trainer.name).Trainer(config, C.build_models(config))
    own = trainer.flow
    assert (own.p, own.eps, own.guidance, own.drop) == (0.5, 1e-4, "fixed", 0.1)
    assert own.guidance_kw["omega"] == 2.0 and own.t_dist == dict(kind="uniform")
    assert own.warmup_end == 0.1 and trainer.sampler == "euler"
  again = C.load(f"{MEANFLOW},data=digits,guidance=fixed", ["trainer.guidance.omega=3"])
  assert again.trainer.guidance.omega == 3.0
  assert C.load(f"{MEANFLOW},data=digits,guidance=fixed", ["trainer.guidance=None"])
  samplers = C.arguments("configs/meanflow.py")["sampler"]
  assert set(samplers) == {"auto", *ode.SAMPLERS}


@pytest.mark.parametrize(
  "data, arg, expected",
  [
    ("digits", "guidance=fixed,quantizer=none", {"flow_loss", "mse_below"}),
    ("digits", "guidance=flexible,net=dit,tokens=patch,v_head=1,predict=x,warmup=fm", {"mse_v"}),
    ("digits", "method=fm,sampler=heun", {"code_usage"}),
    pytest.param(
      "notes",
      "net=dit,v_head=1,predict=u,warmup=alpha",
      {"mse_v", "alpha", "bits"},
      marks=pytest.mark.slow,
    ),
    ("notes", "quantizer=kl,joint", {"quantizer"}),
    ("notes", "quantizer=none,tokens=mdct,method=ae", {"bits"}),
    ("notes", "quantizer=none,sampler=midpoint,method=fm", {"sample_loss"}),
    ("notes", "gan=codec,gan_begin=20,method=mf,sampler=consistency", {"gan_discriminator"}),
  ],
)
def test_arguments_are_traced(data, arg, expected):
  config, trainer, batch, stats = build(data, arg)
  if data == "digits":
    batch["label"] = np.array([0, 9])
    for node in (config.input.data.train, config.evals.val.data, config.evals.samples.data):
      assert ("'label'" in node.pp) == ("guidance" in arg)
    assert bool(config.models.net.classes) == ("guidance" in arg)
  variables = jax.eval_shape(trainer.init, jax.random.key(0), batch, stats)
  loss = lambda v, b, **kw: trainer.loss(v, b, jax.random.key(0), step=3, total_steps=10, **kw).logs
  kw = dict(phase="refiner") if hasattr(trainer, "phase") else {}
  logs = jax.eval_shape(lambda v, b: loss(v, b, train=True, **kw), variables, batch)
  logs |= jax.eval_shape(lambda v, b: loss(v, b, train=False), variables, batch)
  assert expected <= logs.keys()
  for cfg in config.evals.values():
    for nfe in {
      *cfg.get("nfe", [])[:1],
      *(v.get("nfe", 1) for v in cfg.get("variants", {}).values()),
    }:
      fn = lambda v, b, n=nfe: trainer.reconstruct(v, b, jax.random.key(0), nfe=n)
      out = jax.eval_shape(fn, variables, batch)
      assert out[SHAPES[data][0]].shape == SHAPES[data][1]


def test_a_continuous_codec_has_no_codes():
  for name in ("none", "kl"):
    config = C.load(f"configs/meanflow.py:quantizer={name}")
    assert C.build_models(config)["codec"].bits_per_token() == 0
    assert "prior" not in config.models and "codes" not in config.evals.codec.measures
    assert not {"rate_weight", "quantizer_dropout", "soft_share"} & set(config.trainer)
  assert config.models.codec.quantizer.weight > 0


def test_an_image_takes_fewer_bits_in_codes_than_as_it_is():
  for data, raw in (("digits", 64 * np.log2(17)), ("mnist,dir=x", 784 * 8)):
    for tokens in ("flat", "patch", "block_dct", "row_dct"):
      config = C.load(f"configs/meanflow.py:data={data},tokens={tokens}")
      assert config.evals.pairs.raw_bits == pytest.approx(raw)
      fsq = quantize.FSQ(C.to_dict(config.trainer.quantizer))
      count = dict(flat=1, row_dct=8 if data == "digits" else 28)
      bits = fsq.bits_per_frame * count.get(tokens, 4 if data == "digits" else 49)
      assert bits == (64 if data == "digits" else 196) < raw
      assert max(fsq.codebook_sizes) <= 1024 and config.models.net.latent == fsq.dim
  float_latent = C.load("configs/meanflow.py:data=digits,quantizer=none")
  assert float_latent.trainer.quantizer is None and float_latent.models.net.latent == 32
  fsq = quantize.FSQ(C.to_dict(C.load("configs/meanflow.py:data=digits,bits=31").trainer.quantizer))
  assert fsq.bits_per_frame == 31


def groups_that_move(arg, names):
  config = C.load(f"configs/meanflow.py:{arg}")
  opt = optim.build(config.optimizer, names, total_steps=100, batch_size=6, data_size=100)
  return [opt.active(step) for step in range(100)]


def test_schedules_of_the_adversary_and_of_joint_training():
  names = ["discriminator/x", "prior/x", "codec/x", "refiner/x"]
  judged = [step for step, g in enumerate(groups_that_move("gan=codec", names)) if
            "discriminator" in g]  # fmt: skip
  assert judged == list(range(30, 60))
  judged = groups_that_move("gan=codec,gan_begin=10,begin=50", names)
  assert [s for s in range(100) if "discriminator" in judged[s]] == list(range(10, 50))
  judged = groups_that_move("gan=codec,method=ae", names[:3])
  assert [s for s in range(100) if "discriminator" in judged[s]] == list(range(30, 100))
  joint = groups_that_move("joint", names[1:])
  assert all("codec" in g for g in joint) and "refiner" in joint[60] and "refiner" not in joint[59]
  assert C.load("configs/meanflow.py:joint").trainer.joint
  assert not any("codec" in g for g in groups_that_move("", names[1:])[60:])


def test_measures_and_intervals_are_reached_by_overrides():
  flags = ["evals.distance.ci=True", "evals.distance.measures=['mr_stft']"]
  config = C.load("configs/meanflow.py:data=audio_dir,dir=x", flags)
  assert config.evals.distance.ci and config.evals.distance.measures == ["mr_stft"]
  for arg in ("data=audio_dir,dir=x", "tokens=mdct"):
    evals = C.to_dict(C.load(f"configs/meanflow.py:{arg}").evals)
    own = [e for e in evals.values() if e["type"] == "audio_distance"]
    assert all({"measures", "ci"} <= set(e) for e in own)
    # A measure has one place only, or numbers would fall together in tables.
    measures = [m for e in own for m in e["measures"]]
    assert len(measures) == len(set(measures)) and set(audio_distance.DISTANCES) <= set(measures)
  assert "published" not in C.load(MEANFLOW).evals


def test_weights_of_the_losses_are_reached_by_overrides():
  own = C.to_dict(C.load(MEANFLOW).trainer.weights)
  assert own == {**spectral.WEIGHTS, "mdct": 0.0} and set(own) == set(spectral.TERMS)
  config = C.load(f"{MEANFLOW},method=ae", ["trainer.weights.mdct=1"])
  trainer = C.resolve("trainers", "autoencode").Trainer(config, C.build_models(config))
  wav = np.zeros((1, 320, 1), np.float32)
  _, parts = jax.eval_shape(lambda x: trainer._reconstruction(x, x, None), wav)
  assert set(parts) == set(spectral.TERMS)
  with pytest.raises(ValueError, match='"mdct"'):
    C.load(MEANFLOW, ["trainer.weights.mcdt=1"])


@pytest.mark.parametrize("sr, loudness", [(8000, 256), (16000, 512), (24000, 1024), (48000, 2048)])
def test_windows_of_the_losses(sr, loudness):
  """Keys hold the defaults of the losses; loudness integrates over tens of ms at any rate."""
  config = C.load(f"configs/meanflow.py:method=ae,sr={sr}", ["trainer.losses.bands=20"])
  known = {k: p.default for k, p in inspect.signature(spectral.reconstruction).parameters.items()}
  own = C.to_dict(config.trainer.losses)
  assert set(own) == set(autoencode.LOSSES) == set(known) - {
    "pred", "target", "sr", "weights", "mask"
  }  # fmt: skip
  assert own.pop("loudness_windows") == [loudness] and own.pop("bands") == 20
  assert all(v == (list(known[k]) if isinstance(v, list) else known[k]) for k, v in own.items())
  trainer = C.resolve("trainers", "autoencode").Trainer(config, C.build_models(config))
  assert trainer.losses["bands"] == 20 and trainer.losses["loudness_windows"] == [loudness]
  with config.unlocked():
    config.trainer.losses.melz = [3]
  with pytest.raises(ValueError, match='losses.melz is unknown.*"mels"'):
    C.resolve("trainers", "autoencode").Trainer(config, C.build_models(config))


def test_rvq_has_the_rate_that_is_asked_for():
  config = C.load(f"{MEANFLOW},quantizer=rvq,kbps=2")
  assert C.build_models(config)["codec"].bits_per_token() == 40 and "prior" not in config.models
  with pytest.raises(ValueError, match="multiple of 0.5"):
    C.load(f"{MEANFLOW},quantizer=rvq,kbps=2.4")


# kbps asked for -> bits of a token, or the nearest rate as the refusal names it.
AT_50 = {.65: 13, .75: 15, .8: 16, 1: 20, 1.2: 24, 1.5: 30, 2: 40, 2.4: 48, 3: 60, 4: 80, 4.5: 90,
         5: 100, 6: 120, 7: 140, 7.5: 150, 8: 160, .66: "0.65", .68: "0.7", 1.02: "1"}  # fmt: skip
AT_75 = {.675: 9, .75: 10, .9: 12, 1.2: 16, 1.5: 20, 2.025: 27, 2.25: 30, 2.4: 32, 3: 40, 4: 53,
         4.5: 60, 5: 67, 6: 80, 7: 93, 7.5: 100, 7.95: 106, 8: 107,
         .65: "0.675", .8: "0.825", 1: "0.975", 2: "2.025", 2.5: "2.475"}  # fmt: skip
RATES = {8000: (50, AT_50), 16000: (50, AT_50), 24000: (75, AT_75), 48000: (75, AT_75)}


@pytest.mark.parametrize("sr", RATES)
def test_table_of_rates(sr):
  """Each rate of the table is within one per cent of what the model's codes take when packed."""
  tokens, table = RATES[sr]
  for kbps, expected in table.items():
    arg = f"configs/meanflow.py:sr={sr},method=ae,kbps={kbps:g}"
    if isinstance(expected, str):
      with pytest.raises(ValueError, match=rf"kbps={kbps:g} is not .*Use kbps={expected}\.$"):
        C.load(arg)
      continue
    codec = C.build_models(C.load(arg))["codec"]
    assert (codec.bits_per_token(), codec.sr / codec.hop) == (expected, tokens)
    assert expected * tokens / 1000 == pytest.approx(kbps, rel=0.01)
    # Only the last group has fewer than ten bits, and every level takes whole bits.
    assert all(n == 1024 for n in codec.codebook_sizes[:-1])
    assert np.prod([float(n) for n in codec.codebook_sizes]) == 2.0**expected


def test_a_rate_that_is_named_is_the_rate_of_the_codec():
  named = [
    (sr, v) for sr, (_, table) in RATES.items() for v in table.values() if isinstance(v, str)
  ]
  assert named
  for sr, kbps in named:
    codec = C.build_models(C.load(f"configs/meanflow.py:sr={sr},method=ae,kbps={kbps}"))["codec"]
    rate = codec.bits_per_token() * codec.sr / codec.hop / 1000
    assert rate == pytest.approx(float(kbps), abs=5e-4)  # to the digits that were named
