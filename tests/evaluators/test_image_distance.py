"""PSNR and SSIM against scikit-image, and that pairs are pairs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_audio import input_pipeline, sharding
from big_audio.evaluators import image_distance

DIGITS = dict(source="digits", split="validation", pp="keep('image', 'id')")


def pair(h, w, c):
  """A smooth pattern, and a weaker one with noise: (estimate, reference) f32[1, H, W, C]."""
  y, x, k = np.meshgrid(np.arange(h), np.arange(w), np.arange(c), indexing="ij")
  a = np.sin(0.35 * x + 0.1 * k) * np.cos(0.22 * y - 0.3 * k)
  noise = ((x * x * 31 + y * y * 17 + x * y * 7 + k * 101) * 7919 % 10007) / 10007 - 0.5
  b = np.clip(0.8 * a + 0.4 * noise, -1, 1)
  return b.astype(np.float32)[None], a.astype(np.float32)[None]


# scikit-image 0.26: structural_similarity(gaussian_weights=True, sigma=1.5, data_range=2,
# use_sample_covariance=False, channel_axis=-1), which a flat window gives as .8309 and .8570;
# peak_signal_noise_ratio(data_range=2).
@pytest.mark.parametrize(
  "shape, ssim, psnr",
  [((28, 28, 1), 0.7784965, 22.591308), ((32, 40, 3), 0.8074704, 22.521473)],
)
def test_golden_values_of_scikit_image(shape, ssim, psnr):
  got = image_distance.ssim(*pair(*shape))
  assert got.shape == (1,) and float(got[0]) == pytest.approx(ssim, abs=1e-5)
  np.testing.assert_allclose(image_distance.psnr(*pair(*shape)), psnr, rtol=1e-5)


def test_extremes():
  x, y = pair(16, 16, 1)
  assert float(image_distance.ssim(x, x)[0]) == pytest.approx(1)
  assert float(image_distance.psnr(x, x)[0]) == image_distance.MAX_PSNR
  # By hand where the window is the image: one place.
  taps = np.exp(-0.5 * (np.arange(-2, 3) / 1.5) ** 2)
  w = np.outer(taps, taps) / taps.sum() ** 2
  a, b = (v[0, :5, :5, 0].astype(np.float64) for v in (x, y))
  mean = lambda v: np.sum(w * v)
  ma, mb, c1, c2 = mean(a), mean(b), 0.02**2, 0.06**2
  va, vb, vab = mean(a * a) - ma**2, mean(b * b) - mb**2, mean(a * b) - ma * mb
  want = (2 * ma * mb + c1) * (2 * vab + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))
  got = image_distance.ssim(x[:, :5, :5], y[:, :5, :5], window=5)
  assert float(got[0]) == pytest.approx(want, rel=1e-4)
  for window in (4, 17):
    with pytest.raises(ValueError, match="odd window of at most 15"):
      image_distance.ssim(x, y, window=window)


def reconstruct(state, batch, rng, nfe):
  x = batch["image"]
  noise = jax.random.normal(rng, x.shape)
  return {"image": x + noise * 0.1 / max(nfe, 1), "ae": 0.9 * x}


def run(fn=reconstruct, **kw):
  mesh = sharding.make_mesh(jax.devices()[:1])
  kw = dict(dict(data=DIGITS, batch_size=64, mesh=mesh, workdir="", nfe=(1, 4), window=7), **kw)
  return dict(image_distance.Evaluator({"reconstruct": fn}, **kw).run({}))


def test_rows_are_of_pairs():
  got = run(ci=True)
  with input_pipeline.eval_batches(DIGITS, batch_size=400) as batches:
    batch = next(batches)
  x = np.asarray(batch["image"])[batch["_mask"] > 0]
  assert got["items"] == len(x)
  assert got["ae/mse"] == pytest.approx(float(np.mean((0.1 * x) ** 2)), rel=1e-4)
  want = np.mean(10 * np.log10(4 / np.mean((0.1 * x) ** 2, axis=(1, 2, 3))))
  assert got["ae/psnr"] == pytest.approx(float(want), rel=1e-4)
  unit = lambda v: v / 2 + 0.5  # SSIM compares means: it is defined for images from 0 upwards
  want = image_distance.ssim(unit(np.float32(0.9) * x), unit(x), window=7, data_range=1)
  assert got["ae/ssim"] == pytest.approx(float(np.mean(want)), rel=1e-4)
  assert got["identity/ssim"] == pytest.approx(1) and got["identity/psnr"] == 100
  assert got["nfe4/psnr"] > got["nfe1/psnr"] > got["mean/psnr"] > got["unrelated/psnr"]
  assert got["nfe4/psnr_lo"] < got["nfe4/psnr"] < got["nfe4/psnr_hi"]
  # The model's images in another order score as unrelated ones do: nothing is compared unpaired.
  turned = run(lambda *a, nfe: {k: jnp.roll(v, 1, 0) for k, v in reconstruct(*a, nfe).items()})
  assert turned["ae/psnr"] == pytest.approx(got["unrelated/psnr"], abs=1.5)
  assert got["ae/psnr"] > turned["ae/psnr"] + 10


@pytest.mark.parametrize("batch_size, limit", [(4, 6), (4, 5), (1, 3), (8, 5)])
def test_controls_compare_no_item_with_itself(batch_size, limit):
  """The last batch is padded with its last item, and may hold one item only."""
  got = run(batch_size=batch_size, limit=limit, nfe=(1,), measures=("mse",))
  with input_pipeline.eval_batches(DIGITS, batch_size=limit) as batches:
    x = np.asarray(next(batches)["image"])[:limit]
  batches = [x[i : i + batch_size] for i in range(0, limit, batch_size)]
  several = [b for b in batches if len(b) > 1]
  assert got["items"] == limit and got["alone"] == sum(len(b) == 1 for b in batches)
  mse = lambda a, b: np.mean((a - b) ** 2, axis=(1, 2, 3))
  if not several:
    assert not any(k.startswith(("mean/", "unrelated/")) for k in got)
    return
  want = np.concatenate([mse(np.roll(b, 1, axis=0), b) for b in several])
  assert got["unrelated/mse"] == pytest.approx(float(want.mean()), rel=1e-4) and want.min() > 0.05
  want = np.concatenate([mse(b.mean(0), b) for b in several])
  assert got["mean/mse"] == pytest.approx(float(want.mean()), rel=1e-4)


def test_bits_stand_beside_those_of_the_image():
  def coded(state, batch, rng, nfe):
    bits = jnp.full(batch["image"].shape[0], 64.0)
    return {**reconstruct(state, batch, rng, nfe), "bits": bits}

  got = run(coded, raw_bits=261.6, batch_size=4, limit=5, measures=("mse",))
  assert (got["bits"], got["raw_bits"]) == (64, 261.6)
  assert not {"bits", "raw_bits"} & run(raw_bits=261.6, limit=2, measures=("mse",)).keys()


def test_errors():
  with pytest.raises(ValueError, match='Did you mean "ssim"'):
    run(measures=("sim",))
  with pytest.raises(ValueError, match="at most 7"):
    run(window=11)
