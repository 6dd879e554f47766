"""The codec's heads: alignment with tokens, reach, masks, levels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import fft

from big_audio.models import codec

HOP = 16
HEADS = [("stft", 2), ("mdct", 1), ("mdct", 2)]


def make(head, sub, **kw):
  kw = dict(dict(width=8, enc_depth=1, dec_depth=1, kernel=3, hop=HOP), **kw)
  return codec.Model(sr=8000, head_type=head, sub=sub, **kw)


def params_of(model, seed=0):
  stats = {k: np.ones(3 * HOP * model.channels, np.float32) for k in ("mean", "std")}
  wav = jnp.zeros((1, 4 * HOP, model.channels))
  return model.init(jax.random.key(seed), wav, stats)


def decoder(model, params):
  return jax.jit(lambda lat, mask: model.apply(params, lat, mask, method="decode")[0])


def latents(model, tokens, seed=0):
  rng = np.random.default_rng(seed)
  return rng.uniform(-1, 1, (1, tokens, model.latent_dim)).astype(np.float32)


@pytest.mark.parametrize("sub", [1, 2])
def test_mdct_frames_of_a_recording_give_it_back_to_its_edges(sub):
  """Frames by scipy's DCT-IV of the definition's folding; token i is samples i hop to (i+1) hop."""
  model, n, tokens = make("mdct", sub, channels=2), HOP // sub, 5
  wav = np.random.default_rng(0).standard_normal((tokens * HOP, 2))
  x = np.pad(wav, ((n, n), (0, 0)))
  window = np.sin(np.pi / (2 * n) * (np.arange(2 * n) + 0.5))
  raw = np.zeros((1, (tokens + 1) * sub, 2, 3, n), np.float32)
  for f in range(tokens * sub + 1):
    for c in range(2):
      a, b, k, d = np.split(window * x[f * n : (f + 2) * n, c], 4)
      coefs = fft.dct(np.concatenate([-k[::-1] - d, a - b[::-1]]), type=4, norm="ortho")
      raw[0, f, c, 0] = np.log(np.abs(coefs) * np.sqrt(HOP))
      raw[0, f, c, 1] = np.sign(coefs)
  raw[0, tokens * sub + 1 :] = 5.0  # no such frames
  raw = raw.reshape(1, tokens + 1, -1)
  got = model.apply({}, raw, method="synthesis")
  np.testing.assert_allclose(got[0], wav, atol=2e-5)
  mask = np.arange(tokens)[None] < 3
  cut = model.apply({}, raw, mask, method="synthesis")
  np.testing.assert_allclose(cut[0, : 3 * HOP], wav[: 3 * HOP], atol=2e-5)
  assert not np.any(cut[0, 3 * HOP :])


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
  "head, sub", [pytest.param(*HEADS[0], marks=pytest.mark.slow), *HEADS[1:], ("stft", 1)]
)
def test_the_reach_is_what_it_says(head, sub, causal):
  model = make(head, sub, causal=causal)
  decode = decoder(model, params_of(model))
  lat, k = latents(model, 13), 6
  other = lat.copy()
  other[:, k] *= -1
  differs = np.asarray(decode(lat, None) != decode(other, None)).reshape(13, -1).any(1)
  before, after = model.decoder_reach
  first, last = np.flatnonzero(differs)[[0, -1]]
  # Token j sees from j - before to j + after.
  more = 2 if (head, sub) == ("stft", 1) else 1
  stated = (more, 2 + more) if causal else (1 + more, 1 + more)
  assert (k - first, last - k) == (after, before) == stated


@pytest.mark.parametrize("head, sub", HEADS)
def test_a_window_and_a_padded_batch_agree_with_the_clip(head, sub):
  model = make(head, sub)
  decode = decoder(model, params_of(model))
  lat = latents(model, 12)
  want = np.asarray(decode(lat, None))
  assert want.shape == (1, 12 * HOP, 1) and np.abs(want).std() > 1e-3
  padded = np.concatenate([np.full_like(lat[:, :3], 0.9), lat, np.full_like(lat[:, :4], -0.7)], 1)
  mask = np.zeros((1, 19), bool)
  mask[:, 3:15] = True
  got = np.asarray(decode(padded, mask))
  np.testing.assert_allclose(got[:, 3 * HOP : 15 * HOP], want, atol=1e-6)
  assert not got[:, : 3 * HOP].any() and not got[:, 15 * HOP :].any()
  before, after = model.decoder_reach
  window = np.asarray(decode(lat[:, 5 - before : 8 + after], None))
  inner = window[:, before * HOP : (before + 3) * HOP]
  np.testing.assert_allclose(inner, want[:, 5 * HOP : 8 * HOP], atol=1e-6)


def test_heads_begin_at_the_same_level():
  levels = []
  for head, sub in HEADS:
    model = make(head, sub, hop=32)
    raw = np.random.default_rng(0).standard_normal((1, 200, sub * 3 * model.bins))
    raw.reshape(1, 200, sub, 3, -1)[..., 0, :] = 0.0
    levels.append(float(jnp.std(model.apply({}, raw.astype(np.float32), method="synthesis"))))
  np.testing.assert_allclose(levels, levels[0], rtol=0.3)


@pytest.mark.parametrize("head, sub", HEADS)
def test_gradients_are_finite_where_gain_and_phase_are_zero(head, sub):
  model = make(head, sub)
  raw = jnp.zeros((1, 4, sub * 3 * model.bins))
  grad = jax.grad(lambda r: jnp.sum(model.apply({}, r, method="synthesis") ** 3))(raw)
  assert np.isfinite(grad).all()


def test_an_unknown_head_is_named_with_the_nearest():
  with pytest.raises(ValueError, match=r"head_type='mcdt' is unknown. Did you mean \"mdct\""):
    params_of(make("mcdt", 2))
