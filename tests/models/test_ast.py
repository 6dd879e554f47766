"""AST: sizes, order of tokens, pooling, patchout, shorter clips, positions of other grids."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_audio import trees
from big_audio.models import ast

TINY = dict(frames=48, bins=32, stride_time=8, stride_freq=16, dim=8, depth=2, heads=2)  # 2 x 5


@functools.cache
def made(**kw):
  """(network, random parameters), the same for the same names."""
  net = ast.Model(**{**TINY, **kw})
  x = jax.ShapeDtypeStruct((1, net.frames, net.bins), jnp.float32)
  shapes = trees.flatten(jax.eval_shape(net.init, jax.random.key(0), x)["params"])
  random = np.random.RandomState(0)
  fill = {k: random.standard_normal(shapes[k].shape).astype("f4") * 0.3 for k in sorted(shapes)}
  return net, trees.unflatten({k: jnp.asarray(v) for k, v in fill.items()})


def run(net, params, x, **kw):
  return jax.jit(lambda p, x: net.apply({"params": p}, x, **kw))(params, x)


def clip(frames=48, b=2, seed=0):
  return np.random.default_rng(seed).standard_normal((b, frames, 32), np.float32)


def test_parameters_of_the_variants_are_those_of_the_page():
  rows = [r.strip("| ").split(" | ") for r in ast.__doc__.splitlines() if r.startswith("| ")][1:]
  assert [r[0] for r in rows] == list(ast.VARIANTS)
  for name, dim, depth, heads, count, _ in rows:
    net = ast.Model(variant=name)
    assert (net.dim, net.depth, net.heads) == (int(dim), int(depth), int(heads))
    x = jax.ShapeDtypeStruct((1, 1024, 128), jnp.float32)
    tree = jax.eval_shape(net.init, jax.random.key(0), x)["params"]
    assert trees.count(tree) == int(count.replace(" ", ""))


def test_weights_start_as_cut_normals():
  net, _ = made(depth=1)
  params = trees.flatten(jax.jit(net.init)(jax.random.key(0), clip())["params"])
  drawn = [v.reshape(-1) for k, v in params.items() if not k.endswith(("bias", "scale"))]
  values = np.concatenate(drawn)
  assert np.abs(values).max() <= 0.04
  assert abs(values.std() - 0.02 * 0.8796) < 1e-3  # what the cut leaves of the deviation
  assert all(not v.any() for k, v in params.items() if k.endswith("bias"))


def test_tokens_are_frequency_major():
  """A row of the grid follows the row below; a patch is the product with the kernel."""
  net, params = made()
  x = clip()
  embedded = run(net, params, x, method="hidden")[0]
  kernel, bias = params["embed"]["kernel"], params["embed"]["bias"]
  assert embedded.shape == (2, 12, 8)
  for row in range(2):
    for column in range(5):
      at = 2 + row * 5 + column
      patch = x[:, 8 * column : 8 * column + 16, 16 * row : 16 * row + 16]
      want = np.einsum("btf,tfd->bd", patch, kernel[:, :, 0]) + bias + params["positions"][at]
      np.testing.assert_allclose(embedded[:, at], want, atol=1e-5)
  for at, name in enumerate(("class", "distil")):
    np.testing.assert_allclose(embedded[0, at], params[name] + params["positions"][at], atol=1e-6)


def test_patches_of_all_mels():
  """Tall patches make a sequence of frames; two equal sides are the square."""
  net, params = made(patch=(4, 32), stride_time=4)
  x = clip()
  embedded = run(net, params, x, method="hidden")[0]
  assert embedded.shape == (2, 2 + 12, 8) and params["embed"]["kernel"].shape == (4, 32, 1, 8)
  want = np.einsum("btf,tfd->bd", x[:, 8:12], params["embed"]["kernel"][:, :, 0])
  want = want + params["embed"]["bias"] + params["positions"][4]
  np.testing.assert_allclose(embedded[:, 4], want, atol=1e-5)
  square, same = made()[1], made(patch=(16, 16))[1]
  assert jax.tree.map(jnp.shape, square) == jax.tree.map(jnp.shape, same)
  with pytest.raises(ValueError, match="a number, or two"):
    made(patch=(4, 4, 4))


def test_pools_and_middle_layers():
  net, params = made()
  x = clip()
  states = run(net, params, x, method="hidden")
  assert len(states) == 4
  same = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6)
  same(run(net, params, x), states[-1].mean(1))
  same(run(made(pool="special")[0], params, x), states[-1][:, :2].mean(1))
  patches = np.asarray(states[-1][:, 2:])
  stats = run(made(pool="stats")[0], params, x)
  assert stats.shape == (2, 16)
  same(stats, np.concatenate([patches.mean(1), np.sqrt(patches.var(1) + 1e-5)], axis=1))
  middle, part = made(layer=1)
  same(run(middle, params, x), states[1].mean(1))  # of the whole tree
  assert set(part) == {"block_0", "class", "distil", "embed", "positions"}
  same(run(middle, {k: params[k] for k in part}, x), states[1].mean(1))


def test_shorter_clips_cut_the_positions_along_time():
  net, params = made()
  short, _ = made(frames=32)
  cut = ast.resize_positions(params, (2, 5), (2, 3), "cut")
  x = clip(32)
  got = run(net, params, x)
  np.testing.assert_allclose(got, run(short, cut, x), atol=1e-6)
  grid = np.asarray(params["positions"][2:]).reshape(2, 5, 8)
  np.testing.assert_array_equal(cut["positions"][2:], grid[:, :3].reshape(6, 8))


@pytest.mark.parametrize("new", [(3, 7), (2, 3)])
def test_interpolated_positions_equal_a_loop(new):
  """Half-pixel centres, clamped at the edges; no smoothing before a smaller grid."""
  _, params = made()
  got = ast.resize_positions(params, (2, 5), new, "interpolate")["positions"]
  np.testing.assert_array_equal(got[:2], params["positions"][:2])
  old = np.asarray(params["positions"][2:]).reshape(2, 5, 8)

  def around(i, n, m):
    at = min(max((i + 0.5) * m / n - 0.5, 0), m - 1)
    low = min(int(at), m - 2)
    return low, at - low

  for i in range(new[0]):
    for j in range(new[1]):
      (a, u), (b, w) = around(i, new[0], 2), around(j, new[1], 5)
      want = (1 - u) * ((1 - w) * old[a, b] + w * old[a, b + 1]) + u * (
        (1 - w) * old[a + 1, b] + w * old[a + 1, b + 1]
      )
      np.testing.assert_allclose(got[2 + i * new[1] + j], want, atol=1e-6)


def test_resizing_refuses():
  _, params = made()
  with pytest.raises(ValueError, match="12 positions are not 2 \\+ 3 x 5"):
    ast.resize_positions(params, (3, 5), (2, 3), "cut")
  with pytest.raises(ValueError, match='cannot cut a grid of 2 x 5 to 2 x 6. Use "interpolate"'):
    ast.resize_positions(params, (2, 5), (2, 6), "cut")
  with pytest.raises(ValueError, match="got 'cubic'"):
    ast.resize_positions(params, (2, 5), (2, 6), "cubic")


def test_patchout_leaves_out_whole_rows_and_columns_in_training():
  net, params = made(depth=1, patchout_time=2, patchout_freq=1)
  embedded = jax.jit(
    lambda key, train: net.apply(
      {"params": params}, clip(), train=train, method="hidden", rngs={"dropout": key}
    )[0],
    static_argnums=1,
  )
  whole = np.asarray(embedded(jax.random.key(0), False))
  seen = set()
  for seed in range(8):
    kept = np.asarray(embedded(jax.random.key(seed), True))
    assert kept.shape == (2, 2 + 1 * 3, 8)
    places = [int(np.abs(whole[0] - t).sum(-1).argmin()) for t in kept[0]]
    np.testing.assert_allclose(kept, whole[:, places], atol=1e-6)  # the same for all of the batch
    assert places[:2] == [0, 1] and places == sorted(places)
    rows, columns = zip(*(divmod(p - 2, 5) for p in places[2:]), strict=True)
    assert len(set(rows)) == 1 and len(set(columns)) == 3
    seen.add((rows, columns))
  assert len(seen) > 3


@pytest.mark.slow
def test_remat_and_bfloat16_have_the_same_parameters():
  net, params = made(depth=1)
  for kw in (dict(remat=True), dict(dtype="bfloat16")):
    jax.tree.map(np.testing.assert_array_equal, params, made(depth=1, **kw)[1])
  half, _ = made(depth=1, dtype="bfloat16")
  x = clip()
  got, want = run(half, params, x), run(net, params, x)
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got, want, atol=0.03)
  assert np.abs(got - want).max() > 1e-6  # it did compute in bfloat16


@pytest.mark.slow
def test_remat_has_the_same_gradients():
  net, params = made(depth=1)
  x = clip()
  grad = lambda n: jax.jit(jax.grad(lambda p: (n.apply({"params": p}, x, train=True) ** 2).sum()))
  close = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4)
  jax.tree.map(close, grad(net)(params), grad(made(depth=1, remat=True)[0])(params))


@pytest.mark.parametrize(
  "kw, shape, message",
  [
    ({}, (2, 49, 32), "49 frames, but positions are made for 48. Crop the clips to 48"),
    ({}, (2, 15, 32), "no patch of 16 x 16"),
    ({}, (2, 48, 31), r"expected a log-mel \[B, F, 32\], got \(2, 48, 31\)"),
    (dict(heads=3), (2, 48, 32), "8 does not divide into 3 heads"),
    (dict(pool="class"), (2, 48, 32), "got 'class'"),
    (dict(layer=3), (2, 48, 32), r"expected layer in 1..2 or None, got 3"),
    (dict(patchout_time=5), (2, 48, 32), "0 rows and 5 columns, but the grid of patches is 2 x 5"),
    (dict(dtype="half"), (2, 48, 32), "dtype='half'"),
  ],
)
def test_refusals(kw, shape, message):
  net = ast.Model(**{**TINY, **kw})
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(net.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32))


def test_unknown_variant():
  with pytest.raises(ValueError, match="base"):
    ast.Model(variant="bass")
