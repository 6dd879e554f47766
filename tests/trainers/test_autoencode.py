import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_audio import config as C
from big_audio import trees
from big_audio.models import frames
from big_audio.trainers import autoencode

BATCH = {"wav": (0.1 * np.random.default_rng(0).standard_normal((4, 4800, 1))).astype(np.float32)}


def make(arg="", **trainer):
  config = C.load(f"configs/meanflow.py:smoke{arg}")
  with config.unlocked():
    config.trainer.update(trainer)
  config = C.canonical(config)
  return C.resolve("trainers", "autoencode").Trainer(config, C.build_models(config))


def variables_of(trainer):
  return jax.jit(trainer.init)(jax.random.key(0), BATCH, trainer.stats([BATCH]))


def loss(trainer, variables, step, batch=BATCH, train=True):
  """Compiled: operation by operation, each would be compiled for itself."""
  phase = trainer.phase(step, 10) if train else None

  def fn(variables, batch):
    out = trainer.loss(
      variables, batch, jax.random.key(1), step=step, total_steps=10, train=train, phase=phase
    )
    return dict(value=out.value, logs=out.logs, updates=out.updates)

  return SimpleNamespace(**jax.jit(fn)(variables, batch))


def grads(trainer, variables, step):
  rest = {k: v for k, v in variables.items() if k != "params"}
  fn = lambda p: loss(trainer, {"params": p, **rest}, step).value.mean()
  return trees.flatten(jax.jit(jax.grad(fn))(variables["params"]))


def moved(g, prefix):
  return max(float(jnp.abs(v).max()) for n, v in g.items() if n.startswith(prefix)) > 0


@pytest.mark.slow
@pytest.mark.parametrize("joint", [False, True])
def test_each_stage_trains_its_own_part(joint):
  trainer = make(",joint" if joint else "")
  variables = variables_of(trainer)
  # A refiner as it comes corrects nothing, so nothing would reach what conditions it.
  shake = lambda w: w + 0.1 * jax.random.normal(jax.random.key(2), w.shape)
  params = variables["params"]
  params["refiner"] = jax.tree.map(shake, params["refiner"])
  first, second = grads(trainer, variables, 2), grads(trainer, variables, 6)
  assert moved(first, "codec/") and not moved(first, "refiner/")
  assert moved(second, "refiner/") and moved(second, "codec/") == joint
  rest = {k: v for k, v in variables.items() if k != "params"}

  def flow_loss(codec):  # of the refiner alone
    value = loss(trainer, {"params": {**params, "codec": codec}, **rest}, 6)
    return jnp.mean(value.logs["flow_loss"] + value.logs["sample_loss"])

  reached = trees.flatten(jax.jit(jax.grad(flow_loss))(params["codec"]))
  assert moved(reached, "enc_in") == moved(reached, "dec_in") == joint
  assert not moved(reached, "head/")  # y, where the flow begins, is not drawn to it


@pytest.mark.parametrize("nfe, sampler", [(3, "consistency"), (2, "midpoint"), (2, "euler")])
def test_samplers_of_the_refiner(nfe, sampler):
  trainer = make(f",sampler={sampler}")
  variables = variables_of(trainer)
  fn = jax.jit(lambda v: trainer.reconstruct(v, BATCH, jax.random.key(0), nfe=nfe)["wav"])
  assert np.isfinite(fn(variables)).all()


@pytest.mark.slow
def test_lower_rates_are_trained_in_both_stages_and_codebooks_stand_still():
  change = dict(name="rvq", dim=8, size=16, stages=2, learn="ema")
  config = C.load("configs/meanflow.py:smoke")
  with config.unlocked():
    config.models.codec.quantizer = change
    del config.models.prior
    config.trainer.update(quantizer_dropout=1.0, sample_weight=0.0)
    config.optimizer.ema["skip"] = "discriminator/.*|codec/quant/books_.*"
  config = C.canonical(config)
  trainer = C.resolve("trainers", "autoencode").Trainer(config, C.build_models(config))
  variables = variables_of(trainer)
  fn = jax.jit(
    lambda v, key: trainer.loss(
      v, BATCH, key, step=8, total_steps=10, train=True, phase="refiner"
    ).logs["y_mse"]
  )
  several = np.stack([fn(variables, jax.random.key(k)) for k in range(4)])
  assert several.std(0).max() > 1e-4  # other stages are left out, so y differs
  assert loss(trainer, variables, 8).updates == {}
  assert "codebook" in loss(trainer, variables, 1).updates


def test_a_codebook_may_not_be_averaged():
  config = C.load("configs/meanflow.py:smoke,method=ae")
  with config.unlocked():
    config.models.codec.quantizer = dict(name="rvq", dim=8, size=16, stages=2)
    del config.models.prior
  with pytest.raises(ValueError, match="must not be averaged"):
    C.resolve("trainers", "autoencode").Trainer(C.canonical(config), C.build_models(config))


@pytest.mark.slow
def test_the_adversarial_part_begins_and_moves_both():
  trainer = make(",method=ae,gan=codec")
  variables = variables_of(trainer)
  before, during = grads(trainer, variables, 1), grads(trainer, variables, 4)
  assert not moved(before, "discriminator/") and moved(during, "discriminator/")
  differs = [n for n in before if n.startswith("codec/") and np.any(before[n] != during[n])]
  assert differs
  logs = loss(trainer, variables, 4).logs
  assert np.isfinite(logs["gan_discriminator"]).all()
  assert "gan_generator" not in loss(trainer, variables, 1).logs


@pytest.mark.slow
def test_an_adversary_of_the_refiner_judges_its_samples():
  trainer = make(",gan=refiner", predict="u")
  variables = variables_of(trainer)
  assert [trainer.phase(step, 10) for step in (0, 5, 6)] == ["codec", "codec", "refiner"]
  before, during = grads(trainer, variables, 5), grads(trainer, variables, 6)
  assert not moved(before, "discriminator/") and moved(during, "discriminator/")
  assert not moved(during, "codec/")
  trainer.gan = dataclasses.replace(trainer.gan, weight=0.0, feature_weight=0.0)
  without = grads(trainer, variables, 6)
  differs = [n for n in during if np.abs(during[n] - without[n]).max() > 1e-7]
  assert differs and all(n.startswith("refiner/") for n in differs)
  with pytest.raises(ValueError, match="sample_weight"):
    make(",gan=refiner", sample_weight=0.0)
  with pytest.raises(ValueError, match="Did you mean"):
    make(",gan=refiner", gan=dict(of="decoder"))


def test_adversaries_that_would_never_begin_are_refused():
  for arg, gan in (
    (",gan=codec", dict(of="codec", begin_percent=60.0)),
    (",gan=refiner", dict(of="refiner", begin_percent=70.0)),
  ):
    with pytest.raises(ValueError, match="begin"):
      make(arg, gan=gan)


COSINE = dict(kind="cosine")


@pytest.mark.parametrize(
  "arg, trainer, schedule, words",
  [
    ("", dict(joint=True), None, "'codec/\\.\\*' should end at 100 %"),
    (",joint", dict(joint=False), None, "'codec/\\.\\*' should end at 60 %"),
    ("", dict(refiner_begin_percent=20.0), None, "'refiner/\\.\\*' should begin at 20 %"),
    (",gan=codec", dict(gan=dict(begin_percent=10.0)), None, "'disc.* should begin at 10 %"),
    (",method=ae,gan=codec", dict(gan=dict(begin_percent=10.0)), None, "should begin at 10 %"),
    ("", {}, [["refiner/.*", None], [".*", COSINE]], "'refiner.* got a frozen group"),
    ("", {}, [["refiner/block.*", COSINE], ["[^/]*/[^x].*", COSINE]], None),  # several groups
    ("", {}, [["codec/.*", dict(end_percent=60, kind="rsqrt")], [".*", dict(begin_percent=60)]],
     "'codec/.* should end"),
    ("", {}, [["codec/.*", None], [".*", dict(begin_steps=18)]], None),
    ("", {}, [["codec/.*", None], [".*", dict(begin_steps=20)]], "should begin at 60 %"),
    ("", {}, [["codec/.*", None], [".*", dict(begin_epochs=3)]], None),  # the loop knows
  ],
)  # fmt: skip
def test_the_optimizer_moves_what_the_phase_trains(arg, trainer, schedule, words):
  config = C.load(f"configs/meanflow.py:smoke{arg}")
  with config.unlocked():
    config.trainer.update(trainer)
    if schedule:
      config.optimizer.schedule = schedule
  config = C.canonical(config)
  build = lambda: C.resolve("trainers", "autoencode").Trainer(config, C.build_models(config))
  if words is None:
    build()
  else:
    with pytest.raises(ValueError, match=words):
      build()


@pytest.mark.slow
def test_evaluation_hears_every_row_on_its_own():
  trainer = make()
  variables = variables_of(trainer)
  run = lambda batch: loss(trainer, variables, 9, batch=batch, train=False)
  a = run(BATCH)
  b = run({"wav": np.concatenate([BATCH["wav"][:2], 5 * BATCH["wav"][2:]])})
  for out in (a.value, a.logs["sample_loss"]):
    assert out.shape == (4,) and np.ptp(out) > 0
  np.testing.assert_allclose(a.logs["sample_loss"][:2], b.logs["sample_loss"][:2], rtol=1e-5)
  assert np.all(np.abs(a.logs["sample_loss"][2:] - b.logs["sample_loss"][2:]) > 1e-3)


def test_the_wanted_rate_is_that_of_all_groups(monkeypatch):
  trainer = make(",method=ae,coded_kbps=1.0", quantizer_dropout=0.5)
  seen = []

  def spy(log_weight, bits, wanted, steps, counts):
    jax.debug.callback(lambda *row: seen.append((*map(np.array, row), wanted, steps)), bits, counts)
    return log_weight

  monkeypatch.setattr(autoencode, "next_log_weight", spy)
  loss(trainer, variables_of(trainer), 0)
  jax.effects_barrier()
  ((bits, counts, wanted, steps),) = seen
  assert (wanted, steps) == (trainer.coded_bits, 10)
  assert 0 < counts.sum() < 4 and bits[counts].min() > bits[~counts].max()


def test_the_prior_learns_from_codes_and_pulls_only_by_rate_weight():
  free, pulled = make(",method=ae"), make(",method=ae", rate_weight=1.0)
  variables = variables_of(free)
  one, two = grads(free, variables, 0), grads(pulled, variables, 0)
  assert moved(one, "prior/")
  for n, g in one.items():  # the prior's own gradient does not depend on the weight
    if n.startswith("prior/"):
      np.testing.assert_allclose(g, two[n], rtol=1e-4, atol=1e-6)
  assert any(np.abs(one[n] - two[n]).max() > 1e-5 for n in one if n.startswith("codec/enc"))
  np.testing.assert_array_equal(one["codec/head/kernel"], two["codec/head/kernel"])
  bits = loss(free, variables, 0).logs["bits"]
  np.testing.assert_allclose(bits, 30, atol=1)  # it knows nothing yet


@pytest.mark.slow
def test_the_weight_of_bits_moves_towards_the_wanted_rate():
  trainer = make(",method=ae,coded_kbps=1.0,rate_weight=.01")
  assert trainer.coded_bits == 20
  variables = variables_of(trainer)
  out = loss(trainer, variables, 0)  # 30 bits: an untrained prior
  start = float(variables["rate"]["log_weight"])
  assert start == pytest.approx(np.log(0.01))
  assert float(out.updates["rate"]["log_weight"]) == pytest.approx(
    start + 27 / 10 * 0.5, rel=0.02
  )  # of ten steps
  trainer.coded_bits = 1000.0
  assert float(loss(trainer, variables, 0).updates["rate"]["log_weight"]) < start
  assert "rate" not in loss(trainer, variables, 0, train=False).updates


@pytest.mark.parametrize("name", ["rvq", pytest.param("continuous", marks=pytest.mark.slow)])
def test_other_quantizers_train(name):
  kw = {"rvq": dict(dim=8, size=16, stages=2, learn="ema"), "continuous": dict(dim=8, weight=0.1)}
  config = C.load("configs/meanflow.py:smoke,method=ae")
  with config.unlocked():
    config.models.codec.quantizer = dict(name=name, **kw[name])
    del config.models.prior
    config.trainer.quantizer_dropout = 0.5 if name == "rvq" else 0.0
    config.optimizer.ema["skip"] = "codec/quant/books_.*"
  config = C.canonical(config)
  trainer = C.resolve("trainers", "autoencode").Trainer(config, C.build_models(config))
  variables = variables_of(trainer)
  value, updates = jax.jit(lambda v: (lambda out: (out.value, out.updates))(loss(trainer, v, 0)))(
    variables
  )
  assert np.isfinite(value).all()
  assert ("codebook" in updates) == (name == "rvq")
  if name == "rvq":
    same = jax.tree.map(np.array_equal, updates["codebook"], variables["codebook"])
    assert not all(jax.tree.leaves(same))
  g = grads(trainer, variables, 0)
  assert moved(g, "codec/enc_out") and moved(g, "codec/head")
  fn = lambda v: trainer.reconstruct(v, BATCH, jax.random.key(0), nfe=0)
  assert jax.jit(fn)(variables)["wav"].shape == BATCH["wav"].shape


@pytest.mark.parametrize(
  "method, domain",
  [
    ("imf", "mdct"),
    pytest.param("imf", "magnitude", marks=pytest.mark.slow),
    pytest.param("imf", "stft", marks=pytest.mark.slow),
    ("fm", "mdct"),
  ],
)
def test_an_untrained_refiner_returns_the_decoders_output(method, domain):
  trainer = make(f",method={method},domain={domain}")
  out = jax.jit(trainer.reconstruct)(variables_of(trainer), BATCH, jax.random.key(0))
  assert out["wav"].shape == BATCH["wav"].shape
  np.testing.assert_allclose(out["wav"], out["ae"], atol=2e-3 * float(jnp.abs(out["ae"]).max()))
  np.testing.assert_allclose(out["bits"], 30 * 30)  # 30 tokens of 30 bits


@pytest.mark.parametrize("name", ["mdct", "magnitude", "stft"])
def test_domains_invert(name):
  domain = frames.build(name, hop=160, channels=1, sub=1 if name == "mdct" else 2)
  wav = jnp.asarray(BATCH["wav"])
  rows, side = domain.analysis(wav)
  assert rows.shape == (4, domain.num_rows(30), domain.dim)
  np.testing.assert_allclose(domain.synthesis(rows, side), wav, atol=2e-4)
  assert domain.align(jnp.zeros((4, 30, 5))).shape[:2] == rows.shape[:2]


def test_masked_samples_change_nothing():
  trainer = make(",method=ae")
  variables = variables_of(trainer)
  mask = np.ones((4, 4800), bool)
  mask[:, 3200:] = False
  quiet = {"wav": np.where(mask[..., None], BATCH["wav"], 0), "wav_mask": mask}
  short = {"wav": BATCH["wav"][:, :3200]}
  value = jax.jit(lambda v, batch: loss(trainer, v, 0, batch).value)
  np.testing.assert_allclose(value(variables, quiet), value(variables, short), rtol=1e-4)


def test_stats_are_means_and_deviations():
  trainer = make()
  stats = trainer.stats([BATCH, {"wav": 2 * BATCH["wav"]}])
  x = [trainer.codec.apply({}, w, method="features") for w in (BATCH["wav"], 2 * BATCH["wav"])]
  x = np.concatenate([np.asarray(v, np.float64).reshape(-1, v.shape[-1]) for v in x])
  np.testing.assert_allclose(stats["features"]["mean"], x.mean(0), atol=1e-5)
  np.testing.assert_allclose(stats["features"]["std"], x.std(0), rtol=1e-4)


@pytest.mark.parametrize(
  "trainer, words",
  [
    (dict(method="mff"), '"mf"'),
    (dict(domain="mdc"), '"mdct"'),
    (dict(prior="standard"), "shifted"),
    (dict(sigm=1.0), '"sigma"'),
    (dict(sigma=-1.0), "sigma=-1.0"),
    (dict(refiner_begin_percent=150.0), "at most 99.9"),
    (dict(sampler="heun"), "undefined"),
    (dict(sampler="heunn"), '"heun"'),
    (dict(method="fm", ratio=None, sampler="u_steps"), "average velocities"),
    (dict(soft_share=2.0), "at most 1"),
    (dict(coded_bits=20), "rate_weight above 0"),
    (dict(coded_bits=20, rate_weight=0.06), "at most 0.05"),
    (dict(scale=3.0), "drop=0 never trains"),
    (dict(scale=3.0, drop=0.1), "evals.codec.nfe=1: a step of this sampler costs 2"),
    (dict(sampler="midpoint"), "evals.codec.nfe=1: a step of this sampler costs 2"),
    (dict(method="fm"), "ratio=0.5 is for mf, imf, alpha, not fm"),
    (dict(guidance=dict(kind="flexible")), '"fixed"'),
  ],
)
def test_errors(trainer, words):
  with pytest.raises(ValueError, match=words):
    make(**trainer)
