import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_audio.nn import attention as A


def draw(*shape, seed=0):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


QKV = [draw(2, 13, 2, 8, seed=i) for i in range(3)]


def by_hand(q, k, v, seen):
  """Softmax attention in float64 with seen bool[Q, K]."""
  logits = np.einsum("bqhd,bkhd->bhqk", *(np.asarray(a, np.float64) for a in (q, k))) / 8**0.5
  logits = np.where(seen, logits, -np.inf)
  w = np.exp(logits - logits.max(-1, keepdims=True))
  return np.einsum("bhqk,bkhd->bqhd", w / w.sum(-1, keepdims=True), v)


def test_plain_attention_equals_jax():
  q, k, v = QKV
  want = jax.nn.dot_product_attention(A.rope(q), A.rope(k), v)
  np.testing.assert_allclose(A.attend(q, k, v), want, atol=1e-5)


@pytest.mark.parametrize("window", [1, 3, 4, 20])
def test_blocks_equal_the_whole_matrix(window):
  q, k, v = QKV
  mask = np.ones((2, 13), bool)
  mask[:, 5] = False
  near = np.abs(np.arange(13)[:, None] - np.arange(13)) <= window
  seen = near & mask[0]
  seen[5, 5] = True  # a masked query has no meaning; keep it finite
  got = A.attend(q, k, v, window=window, mask=mask)
  want = by_hand(A.rope(q), A.rope(k), v, seen)
  rows = [i for i in range(13) if i != 5]
  np.testing.assert_allclose(got[:, rows], want[:, rows], atol=1e-5)
  assert np.isfinite(got).all()


def with_prefix(q, k, v, prefix, mask, window):
  """Softmax attention in float64, one query at a time: only frame to frame has positions."""
  b, length, heads, dim = q.shape
  rotate = lambda x: np.concatenate([x[:, :prefix], A.rope(x[:, prefix:])], axis=1)
  turned = [np.asarray(rotate(x), np.float64) for x in (q, k)]
  plain = [np.asarray(x, np.float64) for x in (q, k)]
  out = np.zeros(q.shape)
  for n, i, h in itertools.product(range(b), range(length), range(heads)):
    logits, values = [], []
    for j in range(length):
      frames = i >= prefix and j >= prefix
      if j >= prefix and not mask[n, j - prefix]:
        continue
      if window is not None and j >= prefix and (not frames or abs(i - j) > window):
        continue
      x, y = turned if frames else plain
      logits.append(x[n, i, h] @ y[n, j, h] / np.sqrt(dim))
      values.append(v[n, j, h])
    w = np.exp(np.array(logits) - max(logits))
    out[n, i, h] = (w / w.sum()) @ np.array(values, np.float64)
  return out


@pytest.mark.parametrize("prefix, window", [(1, None), (3, None), (3, 1), (1, 4), (3, 20)])
def test_a_prefix_by_the_definition(prefix, window):
  """Frames see all of the prefix; under a window the prefix sees itself alone."""
  mask = np.ones((2, 13 - prefix), bool)
  mask[1, 4], mask[1, -3:] = False, False
  got = jax.jit(lambda *x: A.attend(*x, prefix=prefix, window=window, mask=mask))(*QKV)
  want = with_prefix(*QKV, prefix, mask, window)
  seen = np.concatenate([np.ones((2, prefix), bool), mask], axis=1)
  np.testing.assert_allclose(np.asarray(got)[seen], want[seen], atol=1e-5)
  assert np.isfinite(got).all()
  if prefix == 3:  # without a mask all frames are seen
    got = jax.jit(lambda *x: A.attend(*x, prefix=prefix, window=window))(*QKV)
    np.testing.assert_allclose(got[0], want[0], atol=1e-5)


def test_nothing_depends_on_absolute_positions_behind_a_prefix():
  p = 3
  got = A.attend(*QKV, prefix=p, window=2)
  # Moving all frames by one place moves the outputs: nothing depends on absolute positions.
  shift = lambda x: np.concatenate([x[:, :p], x[:, p + 1 :]], axis=1)
  moved = A.attend(*(shift(x) for x in QKV), prefix=p, window=2)
  np.testing.assert_allclose(moved[:, p + 2 :], got[:, p + 3 :], atol=1e-5)


def test_rope_is_a_rotation_by_position():
  x = draw(1, 6, 1, 8)
  y = np.asarray(A.rope(x))
  z = (x[..., :4] + 1j * x[..., 4:]) * np.exp(
    1j * np.arange(6)[:, None, None] * 1e4 ** (-np.arange(4) / 4)
  )
  np.testing.assert_allclose(y, np.concatenate([z.real, z.imag], axis=-1), atol=1e-5)
  with pytest.raises(ValueError, match="even"):
    A.rope(draw(1, 2, 1, 3))


def test_queries_and_keys_are_normalised():
  layer = A.SelfAttention(heads=2)
  x = draw(2, 5, 8)
  params = layer.init(jax.random.key(0), x)
  big = jax.tree.map(lambda p: p, params)
  qkv = big["params"]["qkv"]["kernel"]
  # Larger queries and keys change nothing, larger values do.
  scaled = qkv.at[:, :16].multiply(50.0)
  other = {"params": {**params["params"], "qkv": {"kernel": scaled}}}
  np.testing.assert_allclose(layer.apply(other, x), layer.apply(params, x), atol=1e-4)
  norm = nn.RMSNorm().apply({"params": {"scale": jnp.ones(4)}}, draw(3, 4))
  np.testing.assert_allclose(np.mean(np.square(norm), -1), 1, rtol=1e-3)


def test_errors():
  with pytest.raises(ValueError, match="1 frame or more"):
    A.attend(*QKV, window=0)
