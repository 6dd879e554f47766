"""Every config runs in smoke form, and every variant can be traced through a training step."""

import json

import jax
import numpy as np
import pytest

from big_audio import config as C
from big_audio import sharding, train_loop, train_step
from big_audio.objectives import spectral
from big_audio.tools import report

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
    ("notes", "method=alpha,net=mixer_flow,tokens=mdct"),
    *(("notes", f"method={m}") for m in ("ae", "fm", "mf", "imf,domain=mdct", "imf,domain=stft")),
    *(("notes", f"method=imf,net={n}") for n in ("mlp_flow", "mixer_flow", "dit")),
    ("notes", "method=imf,net=mixer_flow,domain=mdct"),
    ("notes", "method=imf,kbps=2.4"),
    ("notes", "method=imf,quantizer=rvq"),
    ("notes", "method=imf,head=mdct"),
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
  "data, tokens", [("digits", "patch"), ("digits", "row_dct"), ("notes", "mdct"),
                   ("notes", "reshape")],
)  # fmt: skip
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
    ("digits", "method=imf,net=dit,tokens=patch"),
    ("notes", "method=alpha,net=convnext1d,tokens=reshape"),
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


def test_a_rate_that_is_named_is_accepted():
  for sr, (_, table) in RATES.items():
    for named in (v for v in table.values() if isinstance(v, str)):
      C.load(f"configs/meanflow.py:sr={sr},method=ae,kbps={named}")
