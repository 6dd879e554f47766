"""Trunks of images: sizes are what their names say; outputs, gradients, running averages."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from big_audio import config as C
from big_audio import trees
from big_audio.models import cnn, heads, vit

S, M, P = ((32, 32, 1), (3, 24)), ((28, 28, 1), (10,)), ((32, 32, 3), (10,))
P100 = ((32, 32, 3), (100,))
# Of the public networks, heads included: variant -> parameters, input, widths of heads.
COUNTS = {
  "cnn": {
    "10k": (10411, S), "39k": (39483, S), "1.1m": (1137819, S),
    "7.9k": (7851, M), "69k": (68994, M), "422k": (421834, M),
  },
  "mlp": {"8.5k": (8470, M), "68k": (67978, M), "1.0m": (1008160, P100)},
  "vit": {
    "23k": (22779, S), "116k": (115867, S),
    "38k": (37770, M), "210k": (210058, M), "822k": (821514, M),
  },
  "convnext": {
    "18k": (18002, M), "73k": (73402, M), "288k": (288118, M), "725k": (724938, M),
    "123k": (122898, P), "309k": (309238, P), "1.0m": (1010836, P100), "10.4m": (10353730, P100),
  },
  "efficientnet": {"66k": (66016, M), "7.2m": (7155082, M)},
}  # fmt: skip
ALL = [(net, variant) for net in COUNTS for variant in COUNTS[net]]
DEEP = [("convnext", v) for v in ("288k", "725k", "309k", "1.0m", "10.4m")]  # slow to trace
DEEP += [("efficientnet", "7.2m")]
TINY = {
  "cnn": dict(variant="10k", widths=(4, 4), features=6),
  "mlp": dict(widths=(5, 6)),
  "vit": dict(dim=8, depth=1, heads=2, patch=4),
  "convnext": dict(depths=(1, 1), widths=(4, 6), kernel=3, drop=0.5),
  "efficientnet": dict(width=0.001, depth=1.0, stages=[[1, 16, 1, 1, 3], [2, 24, 1, 2, 3]]),
  "leaf": dict(
    sr=1000, filters=6, win=25, hop=8, trunk=dict(model="cnn", widths=[4], features=6, grid=2)
  ),
}


def build(net, **kw):
  return C.resolve("models", net).Model(**kw)


def shapes(net, shape, **kw):
  """Features and variables, by shape alone."""
  model, x = build(net, **kw), jax.ShapeDtypeStruct((2, *shape), jnp.float32)
  return jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x), x)


def count(net, variant, shape, widths):
  features, variables = shapes(net, shape, variant=variant)
  hidden = features.shape[1] if net == "vit" else None
  model = heads.Model(outputs={str(i): n for i, n in enumerate(widths)}, hidden=hidden)
  head = jax.eval_shape(model.init, jax.random.key(0), features)
  return trees.count(variables["params"]) + trees.count(head["params"])


def table(net):
  """The rows of the module's page: {variant: [cells]}."""
  lines = [r for r in C.resolve("models", net).__doc__.splitlines() if r.startswith("| ")][1:]
  rows = [[c.strip() for c in r.strip("|").split("|")] for r in lines]
  return {r[0]: r[1:] for r in rows}


@pytest.mark.parametrize("net, variant", ALL)
def test_parameters_are_those_of_the_public_network_and_of_the_name(net, variant):
  want, (shape, widths) = COUNTS[net][variant]
  assert count(net, variant, shape, widths) == want
  digits, unit = float(variant[:-1]), {"k": 1e3, "m": 1e6}[variant[-1]]
  places = len(variant[:-1].partition(".")[2])
  assert round(want / unit, places) == digits
  total, known = table(net)[variant][:2]
  assert total == f"{want:,}".replace(",", " ")
  assert known.startswith("{}x{}x{}, {}".format(*shape, " + ".join(map(str, widths))))


@pytest.mark.slow
@pytest.mark.parametrize("net, variant", ALL)
def test_still_other_sizes_and_parameters_at_32x32x1(net, variant):
  square, _ = shapes(net, (48, 48, 3), variant=variant)
  oblong, _ = shapes(net, (64, 32, 1), variant=variant)
  assert square.shape == oblong.shape and square.shape[0] == 2
  assert f"{count(net, variant, *S):,}".replace(",", " ") == table(net)[variant][2]


@pytest.mark.parametrize(
  "net, variant",
  [pytest.param(*v, marks=pytest.mark.slow if v in DEEP else ()) for v in ALL],
)
def test_other_sizes_of_images(net, variant):
  assert list(C.resolve("models", net).VARIANTS) == list(COUNTS[net]) == list(table(net))
  features, _ = shapes(net, (32, 64, 3), variant=variant)
  assert features.ndim == 2 and features.shape[0] == 2


@pytest.mark.parametrize("net", TINY)
def test_outputs_gradients_and_running_averages(net):
  model, rng = build(net, **TINY[net]), np.random.default_rng(0)
  shape = (200, 1) if net == "leaf" else (8, 12, 2)
  x, other = rng.uniform(-1, 1, (2, 3, *shape)).astype(np.float32)
  variables = dict(jax.jit(model.init)(jax.random.key(0), x))
  params = jax.tree.map(  # nothing switched off by a zero at the start
    lambda p: np.asarray(p) + np.float32(0.1) * rng.standard_normal(p.shape, np.float32),
    variables.pop("params"),
  )
  weight = rng.standard_normal(100).astype(np.float32)

  @jax.jit
  def grads(params, x):
    def loss(params):
      y = model.apply({"params": params, **variables}, x)
      return jnp.sum(y * weight[: y.shape[1]]), y

    return jax.grad(loss, has_aux=True)(params)

  g, y = grads(params, x)
  for name, leaf in trees.names_and_leaves(g):
    if name.endswith("attend/key/bias"):  # adds the same to all logits of a query
      continue
    assert np.isfinite(leaf).all() and np.abs(leaf).max() > 1e-7, name
  assert y.ndim == 2 and np.isfinite(y).all() and np.std(y, axis=0).max() > 0
  # Two other examples beside the first.
  alone = grads(params, np.concatenate([x[:1], other[1:]]))[1]
  np.testing.assert_allclose(alone[0], y[0], rtol=1e-5, atol=1e-6)

  @jax.jit
  def train(x, key):
    return model.apply(
      {"params": params, **variables}, x, train=True, rngs={"dropout": key}, mutable="batch_stats"
    )

  out, new = train(x, jax.random.key(0))
  assert np.isfinite(out).all()
  assert set(new) == set(variables) == ({"batch_stats"} if net in ("cnn", "mlp", "efficientnet")
                                        else set())  # fmt: skip
  for name, leaf in trees.names_and_leaves(new):
    assert np.isfinite(leaf).all()
    old = dict(trees.names_and_leaves(variables))[name]
    assert np.abs(leaf - old).max() > 1e-6, name


def test_the_first_trunk_by_its_plain_definition():
  """Two convolutions, batch norm, ReLU, pooling, and a dense layer; in evaluation."""
  rng = np.random.default_rng(1)
  x = rng.uniform(-1, 1, (2, 16, 16, 1)).astype(np.float32)
  model = cnn.Model(variant="10k", grid=2)
  v = jax.tree.map(
    lambda p: 0.5 + 0.2 * rng.standard_normal(p.shape).astype(np.float32),
    jax.eval_shape(model.init, jax.random.key(0), x),
  )
  h = x.astype(np.float64)
  for i in range(2):
    p, n, s = v["params"][f"conv{i}"], v["params"][f"norm{i}"], v["batch_stats"][f"norm{i}"]
    pad = np.pad(h, ((0, 0), (1, 1), (1, 1), (0, 0)))
    size = h.shape[1]
    h = sum(
      pad[:, a : a + size, b : b + size] @ p["kernel"][a, b].astype(np.float64)
      for a in range(3) for b in range(3)
    )  # fmt: skip
    h = (h + p["bias"] - s["mean"]) / np.sqrt(s["var"] + 1e-5) * n["scale"] + n["bias"]
    h = np.maximum(h, 0).reshape(2, size // 2, 2, size // 2, 2, -1).max((2, 4))
  h = h.reshape(2, 2, 2, 2, 2, -1).mean((2, 4)).reshape(2, -1)
  want = np.maximum(h @ v["params"]["dense"]["kernel"] + v["params"]["dense"]["bias"], 0)
  got = jax.jit(model.apply)(v, x)
  np.testing.assert_allclose(got, want, rtol=1e-4)
  # Dropout stands behind the dense layer: outputs are left out, the others grow.
  rngs = {"dropout": jax.random.key(0)}
  train = jax.jit(lambda v, x: model.apply(v, x, train=True, rngs=rngs, mutable="batch_stats")[0])
  out = train(v, x)
  assert 0 < np.mean(out == 0) < 0.5


def test_the_default_trunk_keeps_its_parameters():
  _, v = shapes("cnn", (28, 28, 1))
  names = {n for n, _ in trees.names_and_leaves(v["params"])}
  conv = {f"{a}{i}/{b}" for i in range(3) for a, b in
          (("conv", "kernel"), ("conv", "bias"), ("norm", "scale"), ("norm", "bias"))}  # fmt: skip
  assert set(v) == {"params"} and names == conv | {"dense/kernel", "dense/bias"}
  assert trees.count(v) == 617664


@pytest.mark.parametrize(
  "size, grid, spans",
  [  # as torch.nn.AdaptiveAvgPool2d has them
    (8, 4, [(0, 2), (2, 4), (4, 6), (6, 8)]),
    (10, 4, [(0, 3), (2, 5), (5, 8), (7, 10)]),
    (5, 3, [(0, 2), (1, 4), (3, 5)]),
    (3, 4, [(0, 1), (0, 2), (1, 3), (2, 3)]),
    (1, 2, [(0, 1), (0, 1)]),
  ],
)
def test_adaptive_pooling(size, grid, spans):
  x = np.random.default_rng(0).standard_normal(size)
  np.testing.assert_allclose(
    cnn.pooling(size, grid) @ x, [x[a:b].mean() for a, b in spans], atol=1e-6
  )


def test_vit_knows_places_by_its_positions_alone():
  model, rng = vit.Model(**TINY["vit"]), np.random.default_rng(0)
  x = rng.uniform(-1, 1, (1, 8, 12, 1)).astype(np.float32)
  v = jax.jit(model.init)(jax.random.key(0), x)
  params = jax.tree.map(lambda p: 20 * np.asarray(p), v["params"])
  apply = jax.jit(lambda p, x: model.apply({"params": p}, x))
  swapped = np.concatenate([x[:, :, 4:8], x[:, :, :4], x[:, :, 8:]], axis=2)
  assert np.abs(apply(params, x) - apply(params, swapped)).max() > 1e-3
  p = params | {"positions": 0 * params["positions"]}
  np.testing.assert_allclose(apply(p, x), apply(p, swapped), rtol=1e-4, atol=1e-4)
  assert params["positions"].shape == (6, 8)  # none for the token
  assert 0.01 < np.std(v["params"]["positions"]) < 0.02  # .0176: a normal of .02 cut at two


def test_convnext_stem():
  kernel = lambda shape: shapes("convnext", shape, variant="18k")[1]["params"]["stem"]["kernel"]
  assert kernel((63, 80, 1)).shape[:2] == (2, 2) and kernel((64, 80, 1)).shape[:2] == (4, 4)


def models(**net):
  return C.build_models(ConfigDict(dict(models=dict(net=net))))


@pytest.mark.parametrize(
  "net, words",
  [
    (dict(model="cnn", variant="10kk"), r"cnn: variant: there is no '10kk'.*\"10k\""),
    (dict(model="vit", variant="micro"), "there is no 'micro'.*Known: 116k, 210k"),
    (dict(model="cnn", widht=3), r"config.models.net: unknown argument 'widht'.*\"widths\""),
    (dict(model="leaf", sr=8000, filter=3, trunk=dict(model="cnn")), 'net: .*"filters"'),
    (dict(model="leaf", sr=8000, trunk=dict(model="cn")), '"cnn"'),
    (dict(model="leaf", sr=8000, trunk=dict(model="cnn", feature=3)), 'trunk: .*"features"'),
    (dict(model="leaf", sr=8000, trunk={}), "key 'model'"),
    (dict(model="leaf", trunk=dict(model="cnn")), "'sr'"),
  ],
)
def test_arguments_that_do_not_fit(net, words):
  with pytest.raises(ValueError, match=words):
    models(**net)


@pytest.mark.parametrize(
  "net, shape, words",
  [
    (dict(model="vit", patch=8), (28, 36, 1), "28 x 36. Set patch to one of 1, 2, 4"),
    (dict(model="vit", dim=30), (32, 32, 1), "30 does not divide into 4 heads"),
    (dict(model="cnn", norm="bach"), (8, 8, 1), '"batch"'),
    (dict(model="cnn", dropout_at="outputs"), (8, 8, 1), '"output"'),
    (dict(model="cnn", activation="relus"), (8, 8, 1), '"relu"'),
    (dict(model="mlp", norm="layer"), (8, 8, 1), "batch, none"),
    (dict(model="mlp"), (64,), "images"),
    (dict(model="convnext", depths=[1, 1]), (32, 32, 1), "as many depths"),
    (dict(model="convnext", kernel=4), (32, 32, 1), "odd kernel"),
  ],
)
def test_settings_that_do_not_fit(net, shape, words):
  with pytest.raises(ValueError, match=words):
    shapes(net.pop("model"), shape, **net)


def test_keywords_change_a_variant():
  net = models(model="cnn", variant="10k", features=7)["net"]
  assert net.features == 7 and tuple(net.widths) == (8, 16) and net.norm == "batch"
  assert cnn.Model().norm == "layer"
