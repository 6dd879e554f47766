"""Distances between images and what a model makes of them, on paired items.

Rows: the model at each number of evaluations, its deterministic decoder ("ae"), and three controls:
"identity" (the ceiling), "mean" (the mean image of each batch) and "unrelated" (another item's
image: what a measure gives that does not look at pairs). The last two need two items in a batch:
an item that is alone in one, as may be left over in the last, is not in their means.
"""

import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from big_audio import config as C
from big_audio.evaluators import bootstrap, common

MEASURES = ("mse", "psnr", "ssim")
MAX_PSNR = 100.0  # of identical images, in place of infinity


def psnr(estimate, reference, *, data_range: float = 2.0):
  """Peak signal-to-noise ratio in dB, at most 100: f32[B, H, W, C] twice -> f32[B].

  10 log10(data_range^2 / mean squared error), over all pixels and channels of an image.
  """
  mse = jnp.mean(jnp.square(estimate - reference), axis=(1, 2, 3))
  return 10 * jnp.log10(data_range**2 / jnp.maximum(mse, data_range**2 * 10 ** (-MAX_PSNR / 10)))


def ssim(estimate, reference, *, window: int = 11, sigma: float = 1.5, data_range: float = 2.0):
  """Structural similarity (Wang et al. 2004) under a Gaussian window, K1 = .01, K2 = .03.

  The mean over all places where the window lies inside of the image, and over channels; as
  scikit-image's structural_similarity(gaussian_weights=True, use_sample_covariance=False).

  Args:
    estimate: f32[B, H, W, C], black = 0 for values that compare with others.
    reference: same shape.
    window: pixels, odd.
    sigma: of the Gaussian, in pixels.
    data_range: distance between the least and the largest possible value.

  Returns:
    f32[B], up to 1.

  Raises:
    ValueError: the shapes differ, an even window, or one larger than the image.
  """
  if estimate.shape != reference.shape or estimate.ndim != 4:
    raise ValueError(
      f"ssim: expected [B, H, W, C] alike, got {estimate.shape} and {reference.shape}."
    )
  least = min(estimate.shape[1:3])
  if window % 2 == 0 or window > least:
    raise ValueError(
      f"ssim: expected an odd window of at most {least - (least + 1) % 2} for images of "
      f"{estimate.shape[1]} x {estimate.shape[2]}, got {window}."
    )
  taps = np.exp(-0.5 * ((np.arange(window) - window // 2) / sigma) ** 2)
  taps = taps / taps.sum()

  def blur(x):  # separable, only where the window fits
    rows = sum(t * x[:, i : x.shape[1] - window + 1 + i] for i, t in enumerate(taps))
    return sum(t * rows[:, :, i : x.shape[2] - window + 1 + i] for i, t in enumerate(taps))

  x, y = estimate.astype(jnp.float32), reference.astype(jnp.float32)
  mx, my = blur(x), blur(y)
  vx, vy, vxy = blur(x * x) - mx**2, blur(y * y) - my**2, blur(x * y) - mx * my
  c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
  score = (2 * mx * my + c1) * (2 * vxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
  return jnp.mean(score, axis=(1, 2, 3))


class Evaluator:
  """Mean squared error, PSNR (dB) and SSIM of paired images.

  Args:
    predict: needs fn: (state, batch, rng, nfe) -> {"image", "ae": like the input}.
    data: a data set of the config, with its pp; batch_size: rows of a batch.
    mesh, workdir: of the run.
    pp: in place of the data set's own.
    key: of the images, f32[B, H, W, C] in [-1, 1].
    nfe: numbers of evaluations, a row each.
    measures: of MEASURES.
    window: of SSIM, in pixels; 7 for images of 8 x 8.
    ci: also 95 % bootstrap intervals over items, <row>/<measure>_lo and _hi.
    raw_bits: of an image as it is, to stand beside the model's.
    limit: only the first `limit` items.
    fn: which function of `predict`.
    seed: of the model's noise.

  Raises:
    ValueError: an unknown measure, with the nearest names, or what `ssim` raises.
  """

  def __init__(
    self, predict, *, data, batch_size, mesh, workdir, pp=None, aux=(), key="image", nfe=(1,),
    measures=MEASURES, window=11, ci=False, raw_bits=None, limit=None, fn="reconstruct", seed=0,
  ):  # fmt: skip
    for m in measures:
      if m not in MEASURES:
        raise ValueError(
          f"evaluators.image_distance: measure {m!r} is unknown. {C.nearest(m, MEASURES)}"
        )
    self._predict, self._mesh, self._key = predict[fn], mesh, key
    self._nfe, self._ci, self._seed = common.check_nfe("image_distance", nfe), ci, seed
    self._batches, self._raw_bits = common.reader(data, pp, batch_size, limit), raw_bits
    fns = {
      "mse": lambda x, y: jnp.mean(jnp.square(x - y), axis=(1, 2, 3)),
      "psnr": psnr,
      # SSIM compares local means, so it depends on where zero lies: black, as published.
      "ssim": lambda x, y: ssim(x / 2 + 0.5, y / 2 + 0.5, window=window, data_range=1.0),
    }
    self._measure = jax.jit(lambda x, y: {m: fns[m](x, y) for m in measures})

  def run(self, state) -> Iterator[tuple[str, float]]:
    """Yields (<row>/<measure>, mean over items), ("items", their number), ("alone", how many of
    them lay in a batch by themselves, which the rows mean and unrelated leave out), and where the
    model gives them ("bits", its payload of an image) beside ("raw_bits", as configured)."""
    values: dict[str, dict[str, list]] = {}
    key = jax.random.key(self._seed)
    items = alone = bits = 0
    for i, (batch, _) in enumerate(common.device_batches(self._batches, self._mesh)):
      x = batch[self._key]
      rng = jax.random.fold_in(key, i)
      found, out = common.versions(self._predict, state, batch, rng, self._nfe, self._key)
      mask = batch["_mask"].reshape(-1, 1, 1, 1)
      real = common.gather(batch["_mask"]) > 0
      items += int(real.sum())
      bits += float(jnp.sum(batch["_mask"] * out["bits"])) if "bits" in out else math.nan
      controls = {"identity": x}
      if real.sum() > 1:
        mean = jnp.sum(x * mask, axis=0, keepdims=True) / jnp.sum(mask)
        # Padding repeats an item, and would be the neighbour of that item itself.
        (rows,) = np.nonzero(real)
        other = np.arange(len(real))
        other[rows] = np.roll(rows, 1)
        controls |= {"mean": jnp.broadcast_to(mean, x.shape), "unrelated": x[other]}
      else:
        alone += int(real.sum())
      for name, estimate in {**controls, **found}.items():
        for k, v in common.gather(self._measure(estimate, x)).items():
          values.setdefault(name, {}).setdefault(k, []).append(v[real])
    for name, mine in values.items():
      for k, parts in mine.items():
        yield from bootstrap.rows(f"{name}/{k}", np.concatenate(parts), ci=self._ci)
    yield "items", float(items)
    yield "alone", float(alone)
    if math.isfinite(bits):
      yield "bits", bits / max(items, 1)
      if self._raw_bits:
        yield "raw_bits", float(self._raw_bits)
