"""Residual vector quantisation with learned codebooks, and continuous (KL) bottlenecks.

RVQ as in the Descript codec (2306.06546, sec. 3.3): each stage projects the residual to a few
dimensions, looks up the nearest code by cosine and projects it back. Codebooks follow gradients, or
an exponential moving average of what was assigned to them (van den Oord et al. 2017, app. A.1).
Codes that nothing is assigned to are moved onto latents of the batch. Distances of commitment and
codebook are those of unit vectors, as the look-up is. Keep codebooks out of a parameters' average:
replacements move them at once (trainers/autoencode.py checks).
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from big_audio.nn.quantize import Quantised


def normalise(x):
  """Unit length along the last axis; finite, with a finite gradient, at zero."""
  return x * jax.lax.rsqrt(jnp.sum(jnp.square(x), -1, keepdims=True) + 1e-12)


class Codebook(nn.Module):
  """One codebook of unit vectors, looked up by cosine.

  Its usage counts, and for learn="ema" the codes, live in the collection "codebook"; they move
  where that collection is mutable, with a key named "codes" for the choice of replacements.

  Attributes:
    size: number of codes.
    dim: of a code.
    learn: "gradient" (codes are parameters) or "ema".
    decay: of the moving averages.
    dead: a code is moved onto a latent of the batch when its average count of assignments in a
      batch falls below this share of the mean count.
  """

  size: int
  dim: int
  learn: str = "gradient"
  decay: float = 0.99
  dead: float = 0.03

  def setup(self):
    if self.learn not in ("gradient", "ema"):
      raise ValueError(f'RVQ: learn must be "gradient" or "ema", got {self.learn!r}.')
    draw = lambda key: normalise(jax.random.normal(key, (self.size, self.dim)))
    key = lambda: self.make_rng("params")
    if self.learn == "gradient":
      self.codes = self.param("codes", draw)
      # A replaced code is parameter + offset: a parameter can only move along its gradient.
      self.offset = self.variable("codebook", "offset", jnp.zeros, (self.size, self.dim))
    else:
      self.total = self.variable("codebook", "total", lambda: draw(key()))
    self.count = self.variable("codebook", "count", jnp.ones, (self.size,))

  def table(self):
    """f32[size, dim]: the codes, of unit length."""
    if self.learn == "gradient":
      return normalise(self.codes + self.offset.value)
    return normalise(self.total.value)

  def __call__(self, z, weight):
    """Nearest codes, and one step of the averages where they may move.

    Args:
      z: f32[N, dim] of unit length.
      weight: f32[N], 0 for rows that do not count.

    Returns:
      (codes f32[N, dim] with the gradient of the table, index int32[N]).
    """
    table = self.table()
    index = jnp.argmax(jax.lax.stop_gradient(z @ table.T), axis=-1).astype(jnp.int32)
    if self.is_mutable_collection("codebook") and not self.is_initializing():
      self._follow(jax.lax.stop_gradient(z), index, weight)
    return table[index], index

  def _follow(self, z, index, weight):
    add = lambda like, x: jnp.zeros_like(like).at[index].add(x)
    mix = lambda old, new: self.decay * old + (1 - self.decay) * new
    count = mix(self.count.value, add(self.count.value, weight))
    rows = jnp.sum(weight)
    is_dead = (count < self.dead * jnp.mean(count)) & (rows > 0)
    pick = jax.random.categorical(
      self.make_rng("codes"), jnp.log(jnp.maximum(weight, 1e-30)), shape=(self.size,)
    )
    fresh = z[pick]
    if self.learn == "gradient":
      codes = jax.lax.stop_gradient(self.codes)
      self.offset.value = jnp.where(is_dead[:, None], fresh - codes, self.offset.value)
    else:
      total = mix(self.total.value, add(self.total.value, z * weight[:, None]))
      self.total.value = jnp.where(is_dead[:, None], fresh, total)
    self.count.value = jnp.where(is_dead, jnp.mean(count), count)


class RVQ(nn.Module):
  """Residual vector quantiser; stage g codes what the stages before it left.

  Attributes:
    dim: D of the latents.
    size: codes of each stage.
    stages: G.
    code_dim: dimensions in which codes are looked up.
    learn, decay, dead: see `Codebook`.
    commitment: weight of |z - sg(code)|^2; the codebook's own |sg(z) - code|^2 has weight 1.
  """

  dim: int = 64
  size: int = 1024
  stages: int = 3
  code_dim: int = 8
  learn: str = "gradient"
  decay: float = 0.99
  dead: float = 0.03
  commitment: float = 0.25

  def setup(self):
    self.down = [nn.Dense(self.code_dim) for _ in range(self.stages)]
    self.up = [nn.Dense(self.dim) for _ in range(self.stages)]
    kw = dict(learn=self.learn, decay=self.decay, dead=self.dead)
    self.books = [Codebook(self.size, self.code_dim, **kw) for _ in range(self.stages)]

  @property
  def groups(self) -> tuple[tuple[int, ...], ...]:
    """Codes of each stage, in the form of FSQ's groups."""
    return ((self.size,),) * self.stages

  @property
  def codebook_sizes(self) -> tuple[int, ...]:
    """Codes of each stage."""
    return (self.size,) * self.stages

  @property
  def in_dim(self) -> int:
    """Width of the latents that go in."""
    return self.dim

  def quantise(self, z, keep=None, mask=None) -> Quantised:
    """Quantises.

    Args:
      z: f32[B, F, D].
      keep: int32[B], stages in use (quantiser dropout); None: all. Codes are given for all.
      mask: bool[B, F], frames that the codebooks may learn from; None: all.
    """
    b, f, _ = z.shape
    rows = jnp.ones((b, f)) if mask is None else mask.astype(jnp.float32)
    keep = jnp.full((b,), self.stages) if keep is None else keep
    residual, out, codes, loss = z, 0.0, [], 0.0
    for g in range(self.stages):
      used = (g < keep).astype(jnp.float32)[:, None]  # [B, 1]
      low = normalise(self.down[g](residual))
      code, index = self.books[g](low.reshape(b * f, -1), (rows * used).reshape(-1))
      code = code.reshape(low.shape)
      distance = lambda a, b: jnp.mean(jnp.square(a - jax.lax.stop_gradient(b)), -1)
      own = distance(code, low) if self.learn == "gradient" else 0.0
      loss += used * (self.commitment * distance(low, code) + own)
      back = self.up[g](low + jax.lax.stop_gradient(code - low))
      residual = residual - back
      out += used[..., None] * back
      codes.append(index.reshape(b, f))
    return Quantised(out, jnp.stack(codes, -1), loss)

  def from_codes(self, codes):
    """Codes int32[..., k] of the first k <= G stages -> f32[..., D].

    Raises:
      ValueError: more codes a frame than stages, or none.
    """
    if not 1 <= codes.shape[-1] <= self.stages:
      raise ValueError(
        f"RVQ.from_codes: expected 1 to {self.stages} codes a frame, got {codes.shape[-1]}."
      )
    return sum(self.up[g](self.books[g].table()[codes[..., g]]) for g in range(codes.shape[-1]))


class Continuous(nn.Module):
  """A continuous bottleneck: mean and deviation with a KL penalty, or plain latents (weight 0).

  It has no codes and therefore no bitstream; it is what codes are compared with.

  Attributes:
    dim: D of the quantised latents; with a penalty the encoder gives 2 D.
    weight: of the KL divergence to a standard normal, a mean over D; 0: no noise, no penalty.
  """

  dim: int = 32
  weight: float = 0.0
  groups = ()
  codebook_sizes = ()

  @property
  def in_dim(self) -> int:
    """Width of the latents that go in."""
    return 2 * self.dim if self.weight else self.dim

  def quantise(self, z, keep=None, mask=None) -> Quantised:
    """z f32[B, F, D or 2 D] -> latents f32[B, F, D]; noise from the key "codes" where given."""
    codes = jnp.zeros((*z.shape[:-1], 0), jnp.int32)
    if not self.weight:
      return Quantised(z, codes, jnp.zeros(z.shape[:-1]))
    mean, log_var = jnp.split(z, 2, axis=-1)
    log_var = jnp.clip(log_var, -20.0, 10.0)
    kl = 0.5 * jnp.mean(jnp.square(mean) + jnp.exp(log_var) - 1 - log_var, -1)
    lat = mean
    if self.has_rng("codes"):
      noise = jax.random.normal(self.make_rng("codes"), mean.shape)
      lat = mean + jnp.exp(0.5 * log_var) * noise
    return Quantised(lat, codes, self.weight * kl)
