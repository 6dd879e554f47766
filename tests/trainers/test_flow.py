import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_audio import config as C
from big_audio.objectives import alphaflow, flow, meanflow
from big_audio.trainers.flow import Trainer
from big_audio.trainers.flow_loss import FlowLoss, start_noise
from tests.objectives.test_meanflow import inputs, net

KEY = jax.random.key(3)
X, E, _, _, COND = inputs()
RNG = np.random.default_rng(0)
IMAGE = {"image": RNG.standard_normal((8, 4, 4, 1)).astype(np.float32) + 2}
WAV = {"wav": (0.1 * RNG.standard_normal((4, 60, 1))).astype(np.float32)}


def direct(method, **kw):
  """The value of an objective at the times that FlowLoss draws."""
  if method == "fm":
    t = flow.sample_t(KEY, (16,))
    return flow.flow_matching(net, X, E, t, cond=COND, p=0.0)[0]
  t, r = meanflow.sample_t_r(KEY, 16, ratio=0.5)
  if method == "equal":
    return meanflow.meanflow(net, X, E, t, t, ratio=0.0, cond=COND)[0]
  if method == "alpha":
    return alphaflow.alphaflow(net, X, E, t, r, kw["alpha"], ratio=0.5, cond=COND, eps=kw["eps"])[0]
  kw.setdefault("eps", 0.01)
  return meanflow.meanflow(net, X, E, t, r, ratio=0.5, cond=COND, improved=method == "imf", **kw)[0]


def value(method, step=None, total_steps=100, **kw):
  return FlowLoss(method, **kw)(net, X, E, KEY, cond=COND, step=step, total_steps=total_steps)[0]


@pytest.mark.parametrize("method", ["fm", "mf", "imf"])
def test_each_method_runs_its_own_objective(method):
  got = value(method)
  np.testing.assert_allclose(got, direct(method), rtol=1e-5)
  for other in {"fm", "mf", "imf"} - {method}:
    assert float(jnp.abs(got - direct(other)).max()) > 1e-3


def test_alpha_goes_from_flow_matching_to_meanflow():
  np.testing.assert_allclose(value("alpha", 50), direct("alpha", alpha=0.5, eps=1e-3), rtol=1e-4)
  np.testing.assert_allclose(value("alpha", 0), direct("alpha", alpha=1.0, eps=1e-3), rtol=1e-4)
  np.testing.assert_allclose(value("alpha", 100), direct("mf", eps=1e-3), rtol=1e-4)
  early = dict(alpha_begin_percent=10.0, alpha_end_percent=20.0)
  np.testing.assert_allclose(value("alpha", 25, **early), direct("mf", eps=1e-3), rtol=1e-4)


def test_warm_ups():
  fm = dict(warmup="fm", warmup_percent=20.0)
  np.testing.assert_allclose(value("imf", 19, **fm), direct("equal"), rtol=1e-5)
  np.testing.assert_allclose(value("imf", 20, **fm), direct("imf"), rtol=1e-5)
  alpha = dict(warmup="alpha", warmup_percent=20.0)
  np.testing.assert_allclose(
    value("imf", 10, **alpha), direct("alpha", alpha=0.5, eps=0.01), rtol=1e-4
  )
  np.testing.assert_allclose(value("imf", 20, **alpha), direct("imf"), rtol=1e-5)
  for name, expected in (("fm", direct("equal")), ("alpha", direct("alpha", alpha=0.5, eps=0.01))):
    by_steps = dict(warmup=name, warmup_steps=20)  # of the 100
    np.testing.assert_allclose(value("imf", 10, **by_steps), expected, rtol=1e-4)
    np.testing.assert_allclose(value("imf", 20, **by_steps), direct("imf"), rtol=1e-5)
  jitted = jax.jit(lambda s: FlowLoss("imf", **fm)(net, X, E, KEY, cond=COND, step=s,
                                                   total_steps=100))  # fmt: skip
  np.testing.assert_allclose(jitted(5)[0], direct("equal"), rtol=1e-4)
  with pytest.raises(ValueError, match="depends on the step"):
    value("imf", None, **fm)
  for kw in (fm, alpha, dict(warmup="fm", warmup_steps=20)):  # a run that only evaluates
    got = FlowLoss("imf", **kw)(net, X, E, KEY, cond=COND, step=0, total_steps=0)[0]
    np.testing.assert_allclose(got, direct("imf"), rtol=1e-5)


def test_settings_are_used_and_zero_is_a_value():
  base = value("mf")
  for kw in (dict(p=0.5), dict(eps=1.0), dict(eps=0.0), dict(ratio=0.0), dict(ratio=1.0),
             dict(t_dist=dict(kind="uniform")), dict(t_dist=dict(mean=0.0))):  # fmt: skip
    assert float(jnp.abs(base - value("mf", **kw)).max()) > 1e-5, kw
  loss, logs = FlowLoss("mf", p=0.0)(net, X, E, KEY, cond=COND)
  np.testing.assert_array_equal(loss, logs["mse"])
  # The weighted loss hides the error, the logs show it, apart for r = t and r < t.
  loss, logs = FlowLoss("mf")(net, X, E, KEY, cond=COND)
  assert float(jnp.mean(loss)) > 0.95
  assert float(logs["mse_equal"][1].sum()) == float(logs["mse_below"][1].sum()) == 8


def test_flow_matching_draws_all_times():
  seen = []
  spy = lambda z, t, h, c: seen.append((t, h)) or net(z, t, h, c)
  big = jnp.zeros((4000, 4))
  FlowLoss("fm")(spy, big, big, KEY, cond=0.0)
  t, h = (np.asarray(a) for a in seen[0])
  assert t.min() < 0.1 and t.max() > 0.9 and abs(np.median(t) - 1 / (1 + np.exp(0.4))) < 0.02
  assert np.all(h == 0)


def test_guidance_reaches_target_and_tangent():
  null = jnp.zeros((4,))
  kw = dict(omega=2.0, kappa=0.5)
  loss = FlowLoss("mf", guidance=dict(kind="fixed", **kw), drop=0.0, p=0.0)
  got, _ = loss(net, X, E, KEY, cond=COND, null=null)
  t, r = meanflow.sample_t_r(KEY, 16, ratio=0.5)
  z = flow.interpolate(X, E, t)
  v = 2.0 * (E - X) - 1.5 * net(z, t, 0 * t, 0 * COND) + 0.5 * net(z, t, 0 * t, COND)
  want = meanflow.meanflow(net, X, E, t, r, ratio=0.5, cond=COND, p=0, target=v)[0]
  np.testing.assert_allclose(got, want, rtol=1e-4)
  with pytest.raises(ValueError, match="cond and null"):
    FlowLoss("fm", drop=0.1)(net, X, E, KEY, cond=COND)
  dropped = FlowLoss("fm", drop=0.9)(net, X, E, KEY, cond=COND, null=null)[0]
  assert (np.asarray(dropped) != np.asarray(value("fm"))).sum() > 8


@pytest.mark.parametrize(
  "args, words",
  [
    (dict(method="imff"), '"imf"'),
    (dict(method="imf", warmup="fmm", warmup_percent=1.0), '"fm"'),
    (dict(method="fm", warmup="fm", warmup_percent=1.0), "comes before mf or imf"),
    (dict(method="mf", warmup="fm"), "one of warmup_percent and warmup_steps"),
    (dict(method="mf", warmup="fm", warmup_percent=1.0, warmup_steps=3), "one of warmup_percent"),
    (dict(method="mf", ratio=7), "ratio=7: expected 0 or more and at most 1"),
    (dict(method="mf", p=-3.0), "p=-3.0: expected 0 or more"),
    (dict(method="mf", guidance=dict(omega=1.0)), "'kind' is missing"),
    (dict(method="mf", guidance=dict(kind="fixed", omgea=1.0)), '"omega"'),
    (dict(method="mf", guidance=dict(kind="flexible")), "trained with imf"),
    (dict(method="fm", guidance=dict(kind="fixed")), "when sampling"),
    (dict(method="mf", drop=1.0), "drop must lie"),
    (dict(method="alpha", alpha_end_percent=0.0), "begin < end"),
    (dict(method="mf", alpha_begin_percent=3.0), "is for alpha, not mf"),
    (dict(method="fm", v_weight=1.0), "v_weight=1.0 is for mf, imf, alpha, not fm"),
    (dict(method="mf", guidance=dict(kind="fixed", interval=(0.9, 0.1))), "low < high"),
  ],
)
def test_errors(args, words):
  with pytest.raises(ValueError, match=words):
    FlowLoss(**args)


def test_sampling():
  flow_loss = FlowLoss("fm")
  v = lambda z, t, h, c: c * jnp.ones_like(z)
  one = jnp.ones((2, 3))
  np.testing.assert_allclose(flow_loss.sample(v, one, 4, 2 * one), -1 * one, rtol=1e-6)
  guided = flow_loss.sample(v, one, 4, 2 * one, null=jnp.ones(3), scale=3.0)
  np.testing.assert_allclose(guided, one - 4, rtol=1e-6)
  with pytest.raises(ValueError, match="euler, midpoint, heun"):
    flow_loss.sample(v, one, 4, one, sampler="u_steps")
  with pytest.raises(ValueError, match="needs null"):
    flow_loss.sample(v, one, 4, one, scale=2.0)


def make(batch=IMAGE, model="mlp_flow", net=None, **trainer):
  key = next(k for k in batch if k in ("image", "wav"))
  sizes = dict(mlp_flow=dict(cond_dim=8, depth=1, hidden=16), dit=dict(width=8, heads=2, depth=1))
  config = C.canonical(
    dict(
      models=dict(net=dict(model=model, **{"latent": 4, **sizes[model], **(net or {})})),
      trainer=dict(name="flow", key=key, **trainer),
    )
  )
  trainer = Trainer(config, C.build_models(config))
  return trainer, jax.jit(trainer.init)(jax.random.key(0), batch, trainer.stats([batch]))


def loss_of(trainer, variables, batch, step=5, train=True):
  fn = lambda v, b: trainer.loss(v, b, KEY, step=step, total_steps=10, train=train)
  out = jax.jit(lambda v, b: (lambda loss: (loss.value, loss.logs))(fn(v, b)))(variables, batch)
  assert all(np.isfinite(v).all() for v in jax.tree.leaves(out))
  return out


def drawn(trainer, variables, batch, **kw):
  return jax.jit(lambda v, b: trainer.reconstruct(v, b, KEY, **kw))(variables, batch)


def test_tokens_are_normalised_and_come_back():
  trainer, variables = make(net=dict(dim=4), tokens=dict(name="patch", patch=2), method="ae")
  stats = variables["stats"]["tokens"]
  rows = np.asarray(trainer.tokens.analysis(IMAGE["image"]), np.float64).reshape(-1, 4)
  np.testing.assert_allclose(stats["mean"], rows.mean(0), rtol=1e-4)
  np.testing.assert_allclose(stats["std"], rows.std(0), rtol=1e-4)
  x, _ = trainer._tokens(variables, IMAGE)
  assert abs(float(x.mean())) < 1e-4 and abs(float(x.std()) - 1) < 1e-3
  np.testing.assert_allclose(trainer._data(variables, x, IMAGE), IMAGE["image"], atol=1e-5)
  names = {n for n in variables["params"]["net"]}
  assert names == {"enc_in", "enc_out", "dec_in", "dec_mid", "dec_out"}  # ae has no flow


def test_an_untrained_net_that_predicts_the_data_returns_y():
  for kw, same in ((dict(predict="x"), True), (dict(predict="u"), False)):
    trainer, variables = make(net=dict(dim=16), **kw)
    out = drawn(trainer, variables, IMAGE)
    assert np.allclose(out["image"], out["ae"], atol=1e-5) == same
    np.testing.assert_array_equal(drawn(trainer, variables, IMAGE, nfe=0)["image"], out["ae"])


def test_the_sampler_gets_the_latents_of_its_items():
  """From the same noise, other items come out as others, each at its own place."""
  trainer, variables = make(net=dict(dim=16), method="mf", prior="standard")
  rng = np.random.default_rng(1)
  variables["params"] = jax.tree.map(
    lambda p: p + 0.3 * rng.standard_normal(p.shape).astype("f4"), variables["params"]
  )
  draw = jax.jit(lambda x: trainer.reconstruct(variables, {"image": x}, KEY)["image"])
  x = IMAGE["image"]
  other = np.concatenate([x[:4], -x[4:]])
  moved = np.abs(draw(x) - draw(other)).max((1, 2, 3))
  assert moved[:4].max() < 1e-5 and moved[4:].min() > 1e-3


def test_quantised_audio_tokens_have_a_true_rate():
  levels = [[4, 4], [5, 3]]
  trainer, variables = make(
    WAV, net=dict(dim=10), tokens=dict(name="mdct", hop=10), quantizer=levels, method="mf"
  )
  out = drawn(trainer, variables, WAV, nfe=2)
  assert out["wav"].shape == out["ae"].shape == WAV["wav"].shape
  np.testing.assert_array_equal(out["bits"], 7 * (4 + 4))  # 7 frames of 16 and 15 codes
  assert out["codes"].shape == (4, 7, 2) and int(out["codes"].max()) < 16
  _, logs = loss_of(trainer, variables, WAV)
  assert {"ae_mse", "bits", "code_usage", "code_perplexity", "mse_below"} <= logs.keys()
  mask = {**WAV, "wav_mask": np.arange(60)[None] < np.array([[60], [30], [60], [60]])}
  masked = drawn(trainer, variables, mask, nfe=0)
  np.testing.assert_array_equal(masked["bits"], [56, 32, 56, 56])


def test_flexible_guidance_v_head_and_classes():
  batch = {**IMAGE, "label": np.arange(8)}
  trainer, variables = make(
    batch, "dit", dict(dim=4, guidance=True, v_head=1, classes=8, latent=0, positions=4),
    tokens=dict(name="patch", patch=2), method="imf", label="label", prior="standard",
    guidance=dict(kind="flexible"),
  )  # fmt: skip
  _, logs = loss_of(trainer, variables, batch)
  assert "mse_v" in logs and "ae_mse" not in logs
  rng = np.random.default_rng(1)
  variables["params"] = jax.tree.map(
    lambda p: p + 0.3 * rng.standard_normal(p.shape).astype("f4"), variables["params"]
  )
  draw = jax.jit(lambda w, b: trainer.reconstruct(variables, b, KEY, w=w)["image"])
  base = draw(1.0, batch)
  assert base.shape == IMAGE["image"].shape
  assert float(jnp.abs(base - draw(3.0, batch)).max()) > 1e-3
  assert float(jnp.abs(base - draw(1.0, {**batch, "label": np.arange(8)[::-1]})).max()) > 1e-3


@pytest.mark.slow
def test_evaluation_measures_the_final_objective():
  trainer, variables = make(net=dict(dim=16), method="alpha", p=0.0)
  early = loss_of(trainer, variables, IMAGE, step=0)[1]["alpha"]
  evaluated = loss_of(trainer, variables, IMAGE, step=0, train=False)[1]["alpha"]
  assert early == 1.0 and evaluated == 0.0


@pytest.mark.parametrize("sampler, nfe", [("heun", 4), ("midpoint", 2), ("consistency", 3)])
def test_samplers_by_name(sampler, nfe):
  trainer, variables = make(net=dict(dim=16), method="mf")
  out = trainer.reconstruct(variables, IMAGE, KEY, nfe=nfe, sampler=sampler)["image"]
  assert np.isfinite(out).all()


def test_start():
  y, eps = jnp.full((2, 3), 5.0), jnp.ones((2, 3))
  np.testing.assert_array_equal(start_noise("standard", 0.5, eps, y), eps)
  np.testing.assert_array_equal(start_noise("shifted", 0.5, eps, y), y + 0.5)


@pytest.mark.parametrize(
  "net, trainer, words",
  [
    ({}, dict(tokens="mdct"), "are of wav; for image: flat"),
    ({}, dict(tokens=dict(patch=2)), "'name' is missing"),
    ({}, dict(predict="e"), "predict"),
    ({}, dict(sampler="hoin"), "sampler"),
    ({}, dict(quantizer=[8, 5]), "Set latent=2"),
    (dict(latent=0), {}, "nothing to decode"),
    (dict(classes=3), {}, "give both or none"),
    (dict(guidance=True), {}, "guidance=True there"),
    (dict(latent=0), dict(prior="standard", drop=0.1), "no condition to drop"),
  ],
)
def test_configs_that_do_not_fit(net, trainer, words):
  with pytest.raises(ValueError, match=words):
    make(net=dict(dim=16, **net), **trainer)
