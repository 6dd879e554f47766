"""What all nets of flows have in common, and what each has of its own."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_audio import trees
from big_audio.models import convnext1d, dit, mixer_flow, mlp_flow

B, F, D, L = 2, 12, 6, 4
NETS = {
  "mlp_flow": (mlp_flow.Model, dict(cond_dim=8, depth=2, hidden=16)),
  "mixer_flow": (mixer_flow.Model, dict(tokens=F, cond_dim=8, width=16, depth=2)),
  "convnext1d": (convnext1d.Model, dict(cond_dim=8, width=16, depth=2, kernel=3)),
  "dit": (dit.Model, dict(width=16, heads=2, depth=2)),
  "dit_local": (dit.Model, dict(width=16, heads=2, depth=2, window=2)),
}
# Attention within a window is the same net; what the window changes has tests of its own.
MOSTLY = [pytest.param(n, marks=pytest.mark.slow) if n == "dit_local" else n for n in NETS]
T, H = jnp.asarray([0.8, 0.5]), jnp.asarray([0.3, 0.5])


@functools.cache
def _make(name, kw):
  cls, default = NETS[name]
  return cls(dim=D, **{"latent": L, **default, **dict(kw)})


def make(name, **kw):
  return _make(name, tuple(sorted(kw.items())))


def draw(*shape, seed=0):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


X, COND = draw(B, F, D), draw(B, F, L, seed=1)


def perturbed(params, seed=0):
  """No parameter at its initial zero, so that no part of the net is switched off."""
  leaves, tree = jax.tree.flatten(params)
  rng = np.random.default_rng(seed)
  return tree.unflatten([p + 0.2 * rng.standard_normal(p.shape).astype("f4") for p in leaves])


@functools.cache
def _init(name, kw):
  return jax.jit(make(name, **dict(kw)).init)(jax.random.key(0), X, T, H)["params"]


def params_of(name, **kw):
  return _init(name, tuple(sorted(kw.items())))


@functools.cache
def _jitted(net, method):
  return jax.jit(lambda p, a, kw: net.apply({"params": p}, *a, method=method, **kw))


def apply(net, params, *args, method="u", **kw):
  """Compiled once for each net, method and shapes: compiling is what costs."""
  return _jitted(net, method)(params, args, kw)


@pytest.mark.parametrize("name", MOSTLY)
def test_starts_at_zero_and_codes(name):
  net = make(name)
  params = params_of(name)
  np.testing.assert_array_equal(apply(net, params, X, T, H, COND), np.zeros_like(X))
  lat = apply(net, params, X, method="encode")
  assert lat.shape == (B, F, L) and float(jnp.abs(lat).max()) > 0.1
  y = apply(net, params, lat, method="decode_det")
  assert y.shape == X.shape and float(jnp.abs(y).max()) > 0.05
  moved = apply(net, perturbed(params), X, T, H, COND)
  for other in ((2 * X, T, H, COND), (X, 0.9 * T, H, COND), (X, T, 0.5 * H, COND),
                (X, T, H, -COND), (X, H, T, COND)):  # fmt: skip
    assert float(jnp.abs(moved - apply(net, perturbed(params), *other)).max()) > 1e-3


@pytest.mark.parametrize("name", NETS)
def test_forward_derivative(name):
  """The jvp along (v, 1, 1) against central differences in float64."""
  net = make(name)
  params = perturbed(params_of(name))
  with jax.enable_x64(True):
    to64 = lambda a: jnp.asarray(np.asarray(a), jnp.float64)
    params, x, v = jax.tree.map(to64, (params, X, draw(B, F, D, seed=2)))
    t, h, cond = to64(T), to64(H), to64(COND)
    fn = jax.jit(lambda d: net.apply({"params": params}, x + d * v, t + d, h + d, cond, method="u"))
    got = jax.jit(lambda: jax.jvp(fn, (jnp.zeros(()),), (jnp.ones(()),))[1])()
    # The sinusoids and some sums stay float32 by design: a coarse step.
    eps = 1e-2
    want = (8 * (fn(eps) - fn(-eps)) - (fn(2 * eps) - fn(-2 * eps))) / (12 * eps)
    scale = float(jnp.abs(want).max())
    assert scale > 0.1
    np.testing.assert_allclose(got, want, atol=1e-3 * scale)


@pytest.mark.parametrize("name", NETS)
def test_bfloat16(name):
  net, half = make(name), make(name, dtype="bfloat16")
  params = perturbed(params_of(name))
  assert all(p.dtype == jnp.float32 for p in jax.tree.leaves(params))

  def both(net):
    fn = lambda x, t, h: net.apply({"params": params}, x, t, h, COND, method="u")
    return jax.jit(lambda: jax.jvp(fn, (X, T, H), (X, jnp.ones(B), jnp.ones(B))))()

  (u, du), (u16, du16) = both(net), both(half)
  assert u16.dtype == du16.dtype == jnp.float32
  for a, b in ((u, u16), (du, du16)):
    assert 1e-5 < float(jnp.abs(a - b).max()) < 0.1 * float(jnp.abs(a).max())
  inner = jax.make_jaxpr(lambda x: half.apply({"params": params}, x, T, H, COND, method="u"))(X)
  assert "bf16" in str(inner)


def objective(net):
  def loss(p):
    fn = lambda z, t: net.apply({"params": p}, z, t, H, COND, method="u")
    u, du = jax.jvp(fn, (X, T), (X, jnp.ones(B)))
    return jnp.mean((u + du) ** 2)

  return jax.jit(jax.value_and_grad(loss))


@pytest.mark.parametrize("name", NETS)
def test_remat_and_scan_change_neither_names_nor_values(name):
  params = perturbed(params_of(name))
  names = sorted(trees.flatten(params))
  assert any(re.search(r"/block_0/", n) for n in names)
  for kw in (dict(remat=True), dict(scan=True), dict(remat=True, scan=True)):
    shapes = jax.eval_shape(make(name, **kw).init, jax.random.key(0), X, T, H)["params"]
    assert sorted(trees.flatten(shapes)) == names
  got = apply(make(name, remat=True, scan=True), params, X, T, H, COND)
  np.testing.assert_allclose(got, apply(make(name), params, X, T, H, COND), atol=1e-5)


@pytest.mark.parametrize("kw", [dict(remat=True), dict(scan=True), dict(remat=True, scan=True)])
def test_gradients_through_the_jvp_with_remat_and_scan(kw):
  params = perturbed(params_of("mlp_flow"))
  want, want_grad = objective(make("mlp_flow"))(params)
  got, grad = objective(make("mlp_flow", **kw))(params)
  np.testing.assert_allclose(got, want, rtol=1e-4)
  for a, b in zip(jax.tree.leaves(grad), jax.tree.leaves(want_grad), strict=True):
    np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-4)


@pytest.mark.slow
def test_scan_compiles_one_block():
  count = lambda **kw: str(
    jax.make_jaxpr(lambda p: make("dit", depth=6, **kw).apply({"params": p}, X, T, H, COND,
                   method="u"))(params_of("dit", depth=6))
  ).count("dot_general")  # fmt: skip
  assert count(scan=True) < count() / 3


@pytest.mark.parametrize("name", NETS)
def test_masked_frames_influence_nothing(name):
  net = make(name)
  params = perturbed(params_of(name))
  mask = np.broadcast_to(np.arange(F) < 8, (B, F))
  garbage = np.where(mask[..., None], X, 100 + draw(B, F, D, seed=3))
  for method, args in (("u", (T, H, COND)), ("encode", ())):
    a = apply(net, params, X, *args, mask=mask, method=method)
    b = apply(net, params, garbage, *args, mask=mask, method=method)
    np.testing.assert_allclose(a[:, :8], b[:, :8], atol=1e-5)
    if name != "mixer_flow":  # of any length: padding cannot be told from the end
      cut = [c[:, :8] if getattr(c, "ndim", 0) == 3 else c for c in args]
      alone = apply(net, params, X[:, :8], *cut, method=method)
      np.testing.assert_allclose(a[:, :8], alone, atol=1e-4)


@pytest.mark.parametrize("name, reach", [("mlp_flow", 0), ("convnext1d", 2), ("dit_local", 4),
                                         ("mixer_flow", None), ("dit", None)])  # fmt: skip
def test_reach(name, reach):
  net = make(name)
  assert net.reach == reach
  params = perturbed(params_of(name))
  grad = jax.jit(jax.grad(lambda x: net.apply({"params": params}, x, T, H, COND,
                                              method="u")[0, 6].sum()))(X)  # fmt: skip
  touched = np.flatnonzero(np.abs(np.asarray(grad)[0]).sum(-1) > 0)
  want = (0, F - 1) if reach is None else (6 - reach, 6 + reach)
  assert (touched[0], touched[-1]) == want


def test_a_window_of_a_longer_stream_agrees():
  net = make("dit_local")
  params = perturbed(params_of("dit_local"))
  x, cond = draw(1, 40, D), draw(1, 40, L, seed=1)
  t, h = T[:1], H[:1]
  whole = apply(net, params, x, t, h, cond)
  part = apply(net, params, x[:, 9:30], t, h, cond[:, 9:30])
  np.testing.assert_allclose(part[:, 4:-4], whole[:, 13:26], atol=1e-4)


@pytest.mark.parametrize("name", MOSTLY)
def test_guidance_and_labels_are_inputs(name):
  net = make(name, guidance=True, classes=10)
  params = perturbed(params_of(name, guidance=True, classes=10))
  ctx = {"w": jnp.full(B, 2.0), "t_min": jnp.full(B, 0.1), "t_max": jnp.full(B, 0.9)}
  none = jnp.full(B, 10)
  plain = {"w": jnp.ones(B), "t_min": jnp.zeros(B), "t_max": jnp.ones(B)}
  call = lambda ctx=plain, labels=none: apply(net, params, X, T, H, COND, ctx=ctx, labels=labels)
  base = call(ctx)
  for k, v in ctx.items():
    assert float(jnp.abs(base - call({**ctx, k: v + 0.05})).max()) > 1e-4, k
  np.testing.assert_allclose(call(), apply(net, params, X, T, H, COND), atol=1e-6)
  assert float(jnp.abs(call() - call(labels=jnp.asarray([3, 4]))).max()) > 1e-4
  with pytest.raises(ValueError, match="guidance=True"):
    apply(make(name), params_of(name), X, T, H, COND, ctx=ctx)
  with pytest.raises(ValueError, match="classes=N"):
    apply(make(name), params_of(name), X, T, H, COND, labels=jnp.zeros(B, int))


@pytest.mark.parametrize("time_cond", ["th", "tr", "h"])
def test_time_cond(time_cond):
  net = make("mlp_flow", time_cond=time_cond)
  params = perturbed(params_of("mlp_flow", time_cond=time_cond))
  base = apply(net, params, X, T, H, COND)
  same = lambda t, h: bool(jnp.allclose(base, apply(net, params, X, t, h, COND), atol=1e-6))
  assert same(T - 0.1, H) == (time_cond == "h")
  assert not same(T, H - 0.1)
  names = {n.split("/")[1] for n in trees.flatten(params) if n.startswith("time/")}
  assert names == {f"{k}_{p}" for k in time_cond for p in ("in", "out")}
  with pytest.raises(ValueError, match="th, tr, h"):
    make("mlp_flow", time_cond="rt").init(jax.random.key(0), X, T, H)


@pytest.mark.slow
def test_v_head():
  net = make("dit", v_head=1)
  params = perturbed(params_of("dit", v_head=1))
  u, v = jax.jit(lambda: net.apply({"params": params}, X, T, H, COND, with_v=True, method="u"))()
  np.testing.assert_allclose(u, apply(net, params, X, T, H, COND), atol=1e-5)
  assert u.shape == v.shape and float(jnp.abs(u - v).max()) > 1e-2
  rest = {k: p for k, p in params.items() if not k.startswith("v_")}  # not needed for sampling
  np.testing.assert_allclose(apply(net, rest, X, T, H, COND), u, atol=1e-5)
  with pytest.raises(ValueError, match="v_head=N"):
    bare = make("dit")
    bare.apply({"params": params_of("dit")}, X, T, H, COND, with_v=True, method="u")


def test_unconditional():
  for name in NETS:
    net = make(name, latent=0)
    out, variables = jax.eval_shape(net.init_with_output, jax.random.key(0), X, T, H)
    assert not any(n.startswith(("enc", "dec")) for n in variables["params"])
    assert out.shape == X.shape


def test_parameter_counts_are_true():
  """By hand for the shape of the original's MLP for MNIST, and what the table prints."""
  net = mlp_flow.Model(dim=784, latent=256, cond_dim=128, depth=8)
  x, t = jnp.zeros((1, 1, 784)), jnp.zeros(1)
  shapes = jax.eval_shape(net.init, jax.random.key(0), x, t, t)["params"]
  dense = lambda a, b: a * b + b
  wide = 784 + 256
  block = dense(128, 2 * wide + 784) + 2 * wide + dense(wide, wide) + dense(wide, 784)
  time = 2 * (dense(256, 128) + dense(128, 128))
  enc = dense(784, 520) + dense(520, 256)
  dec = dense(256, 784) + 2 * dense(784, 784)
  want = 8 * block + time + enc + dec + 2 * dense(784, 784)
  assert trees.count(shapes) == want
  printed = [int(line.split()[-1].replace(",", "")) for line in trees.table(shapes).splitlines()]
  assert sum(printed) == want
  # dit: width 16, 2 blocks, SwiGLU 48 wide (8/3 of 16, in eights).
  blocks = params_of("dit")["trunk"]
  one = 3 * 16 * 16 + 16 * 16 + 2 * 8 + 4 * 16 + 16 * 2 * 48 + 48 * 16
  assert trees.count(blocks) == 2 * one


def test_errors():
  net = make("mixer_flow")
  with pytest.raises(ValueError, match=r"exactly 12 tokens.*Pad to 12"):
    net.apply({"params": params_of("mixer_flow")}, X[:, :5], T, H, COND[:, :5], method="u")
  with pytest.raises(ValueError, match="positions=12 fits 12 tokens, got 5"):
    make("dit", positions=12).init(jax.random.key(0), X[:, :5], T, H)
  with pytest.raises(ValueError, match="does not divide into 3 heads"):
    make("dit", heads=3).init(jax.random.key(0), X, T, H)
  with pytest.raises(ValueError, match="bfloat16"):
    make("mlp_flow", dtype="bf16").init(jax.random.key(0), X, T, H)
