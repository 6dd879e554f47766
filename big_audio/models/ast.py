"""Audio Spectrogram Transformer (Gong et al. 2104.01778): patches of a log-mel -> features.

A DeiT-like ViT over overlapping patches: a class and a distillation token, then the patches of all
times of the lowest frequencies, then those of the next (frequency-major), learnt positions,
pre-norm blocks, a last norm. Public weights come in by `big_audio.convert`, family "ast". Weights,
positions and tokens start as normals of deviation .02, cut off at two deviations.

| variant | D | blocks | heads | parameters at 1024 x 128 | known as |
|---|---|---|---|---|---|
| base | 768 | 12 | 12 | 86 187 264 | MIT/ast-finetuned-audioset-10-10-0.4593 |
| small | 384 | 12 | 6 | 21 859 968 | DeiT small |
| tiny | 192 | 12 | 3 | 5 621 568 | DeiT tiny |
| micro | 64 | 4 | 4 | 249 536 | stride 16; trains from scratch on a CPU |
"""

from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from big_audio.models.variants import sized
from big_audio.nn.prenorm import Block
from big_audio.nn.stack import compute_dtype

VARIANTS = {
  "base": dict(dim=768, depth=12, heads=12),
  "small": dict(dim=384, depth=12, heads=6),
  "tiny": dict(dim=192, depth=12, heads=3),
  "micro": dict(dim=64, depth=4, heads=4, stride_time=16, stride_freq=16),
}
INIT = nn.initializers.truncated_normal(0.02)
SPECIAL = 2  # tokens in front: class, distillation
POOLS = ("tokens", "special", "stats")


def grid(
  frames: int, bins: int, patch: int | Sequence[int], stride_time: int, stride_freq: int
) -> tuple[int, int]:
  """(rows along frequency, columns along time) of the patches of a log-mel [frames, bins].

  Raises:
    ValueError: less than one patch, or a stride below 1.
  """
  wide, high = sides(patch)
  if min(stride_time, stride_freq, wide, high) < 1 or frames < wide or bins < high:
    raise ValueError(
      f"ast: no patch of {wide} x {high} with strides {stride_time} (time) and {stride_freq} "
      f"(frequency) in {frames} frames x {bins} bins. Use longer clips, or a smaller patch."
    )
  return (bins - high) // stride_freq + 1, (frames - wide) // stride_time + 1


def sides(patch: int | Sequence[int]) -> tuple[int, int]:
  """(frames, mels) of a patch, which one number says of a square.

  Raises:
    ValueError: neither a number nor two.
  """
  both = (patch, patch) if isinstance(patch, int) else tuple(patch)
  if len(both) != 2 or not all(isinstance(n, int) for n in both):
    raise ValueError(f"ast: patch={patch!r}: expected a number, or two: frames and mels.")
  return both


class Ast(nn.Module):
  """AST trunk. Clips may be shorter than `frames`: positions are then cut along time.

  Attributes:
    frames: that the positions are made for, at most.
    bins: M, mels that the positions are made for.
    patch: side of a patch, in frames and mels; or both, as (frames, mels). Patches of all mels and
      few frames suit speech (SSAST, Gong et al. 2110.09784).
    stride_time: from one patch to the next, in frames.
    stride_freq: the same in mels.
    dim: D, width of a token and of the output.
    depth: number of blocks.
    heads: of the attention; divide D.
    mlp_ratio: width of a block's hidden layer over D.
    dropout: share of the embedded tokens, and of each branch's outputs, left out in training.
    pool: "tokens" (mean of all tokens), "special" (mean of class and distillation token, which the
      public classifiers were trained with), or "stats" (mean and deviation of the patches' tokens,
      2 D features, as in x-vectors, Snyder et al. 2018: a net without any training then knows how
      much a spectrum moves, and learns from little data).
    layer: pool what stands after this block, counting from 1, without the last norm. Blocks after
      it and the norm are neither computed nor created: leave them out of a checkpoint with
      unused=..., or apply this network to a whole tree, whose other parameters it does not touch.
    patchout_time: columns of the grid left out in training, drawn once a batch from the rng
      "dropout" (PaSST, Koutini et al. 2110.05069, structured patchout).
    patchout_freq: rows of the grid left out likewise.
    dtype: compute type, None (float32) or "bfloat16"; parameters, norms, softmax and the sum that
      runs through the blocks stay float32.
    remat: compute the blocks again in the backward pass instead of keeping their activations.
  """

  frames: int = 1024
  bins: int = 128
  patch: int | Sequence[int] = 16
  stride_time: int = 10
  stride_freq: int = 10
  dim: int = 768
  depth: int = 12
  heads: int = 12
  mlp_ratio: float = 4
  dropout: float = 0.0
  pool: str = "tokens"
  layer: int | None = None
  patchout_time: int = 0
  patchout_freq: int = 0
  dtype: str | None = None
  remat: bool = False

  def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    """Features of a clip.

    Args:
      x: f32[B, F, M], log-mel as `pp.ops_fbank` makes it: normalised, M = bins, F <= frames.
      train: with dropout and patchout; needs the rng "dropout" if there is any.

    Returns:
      f32[B, D], or f32[B, 2 D] with pool="stats".

    Raises:
      ValueError: another shape, clips that are too long or too short, or attributes that do not
        fit together.
    """
    tokens = self.hidden(x, train=train)[-1]
    if self.pool == "stats":
      tokens = tokens[:, SPECIAL:]
      # The floor keeps the root's gradient finite where nothing moves.
      deviation = jnp.sqrt(jnp.var(tokens, axis=1) + 1e-5)
      return jnp.concatenate([jnp.mean(tokens, axis=1), deviation], axis=-1)
    if self.pool == "special":
      tokens = tokens[:, :SPECIAL]
    return jnp.mean(tokens, axis=1)

  @nn.compact
  def hidden(self, x: jax.Array, *, train: bool = False) -> list[jax.Array]:
    """All tokens at every depth: embedded, after each block, and after the last norm.

    Arguments and errors are those of a call.

    Returns:
      f32[B, L, D] each: depth + 2 of them, or layer + 1 (without the last norm) with `layer`.
    """
    self._check(x)
    dtype = compute_dtype(self.dtype)
    rows, columns = self._grid(x.shape[1])
    kernel, strides = sides(self.patch), (self.stride_time, self.stride_freq)
    embed = nn.Conv(
      self.dim, kernel, strides, padding="VALID", kernel_init=INIT, dtype=dtype, name="embed"
    )
    patches = embed(x[..., None]).transpose(0, 2, 1, 3)  # [B, rows, columns, D]
    positions = self.param("positions", INIT, (SPECIAL + np.prod(self._grid()), self.dim))
    places = positions[SPECIAL:].reshape(*self._grid(), self.dim)
    patches = patches + places[:, :columns]
    if train:
      patches = self._patchout(patches, rows, columns)
    patches = patches.reshape(len(x), -1, self.dim)  # [B, L - 2, D]
    tokens = jnp.stack([self.param(n, INIT, (self.dim,)) for n in ("class", "distil")])
    tokens = jnp.broadcast_to(tokens + positions[:SPECIAL], (len(x), SPECIAL, self.dim))
    x = jnp.concatenate([tokens, patches], axis=1)  # [B, L, D]
    x = nn.Dropout(self.dropout, deterministic=not train)(x)
    block = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
    states = [x]
    for i in range(self.depth if self.layer is None else self.layer):
      kw = dict(kernel_init=INIT, eps=1e-12, dtype=dtype, name=f"block_{i}")
      states.append(block(self.heads, self.mlp_ratio, self.dropout, **kw)(states[-1], train))
    if self.layer is None:
      states.append(nn.LayerNorm(epsilon=1e-12, name="norm")(states[-1]))
    return states

  def _grid(self, frames: int | None = None) -> tuple[int, int]:
    frames = self.frames if frames is None else frames
    return grid(frames, self.bins, self.patch, self.stride_time, self.stride_freq)

  def _patchout(self, patches, rows, columns):
    """[B, rows, columns, D] -> [B, rows - patchout_freq, columns - patchout_time, D]."""
    for axis, drop, size in ((1, self.patchout_freq, rows), (2, self.patchout_time, columns)):
      if drop:
        kept = jax.random.permutation(self.make_rng("dropout"), size)[drop:]
        patches = jnp.take(patches, jnp.sort(kept), axis=axis)
    return patches

  def _check(self, x):
    if x.ndim != 3 or x.shape[2] != self.bins:
      raise ValueError(f"ast: expected a log-mel [B, F, {self.bins}], got {tuple(x.shape)}.")
    if x.shape[1] > self.frames:
      raise ValueError(
        f"ast: {x.shape[1]} frames, but positions are made for {self.frames}. Crop the clips to "
        f"{self.frames} frames, or set frames={x.shape[1]} (positions of a checkpoint: "
        "resize_positions)."
      )
    if self.dim % self.heads:
      raise ValueError(f"ast: a width of {self.dim} does not divide into {self.heads} heads.")
    if self.pool not in POOLS:
      raise ValueError(f"ast: expected pool to be one of {POOLS}, got {self.pool!r}.")
    if self.layer is not None and not 1 <= self.layer <= self.depth:
      raise ValueError(f"ast: expected layer in 1..{self.depth} or None, got {self.layer}.")
    rows, columns = self._grid(x.shape[1])
    if not (0 <= self.patchout_freq < rows and 0 <= self.patchout_time < columns):
      raise ValueError(
        f"ast: patchout of {self.patchout_freq} rows and {self.patchout_time} columns, but the "
        f"grid of patches is {rows} x {columns} and some must stay."
      )


Model = sized(Ast, VARIANTS)


def resize_positions(
  params: Mapping, old: tuple[int, int], new: tuple[int, int], mode: str
) -> dict:
  """Parameters with the positions of another grid, for other lengths, strides or bins.

  Args:
    params: of `Ast`.
    old: (rows, columns) of the grid that they are made for; see `grid`.
    new: those of the wanted one.
    mode: "cut" takes the first rows and columns, as the network does with shorter clips;
      "interpolate" is bilinear over the grid with half-pixel centres, as in the paper's code.

  Returns:
    The same tree with other "positions"; the special tokens keep theirs.

  Raises:
    ValueError: positions that do not fit `old`, an unknown mode, or a cut to more than there is.
  """
  positions = params["positions"]
  count, dim = positions.shape
  if count != SPECIAL + old[0] * old[1]:
    raise ValueError(
      f"resize_positions: {count} positions are not {SPECIAL} + {old[0]} x {old[1]} (rows x "
      "columns). Give the frames, bins, patch and strides that they were trained with."
    )
  places = positions[SPECIAL:].reshape(*old, dim)
  if mode == "cut":
    if new[0] > old[0] or new[1] > old[1]:
      raise ValueError(
        f"resize_positions: cannot cut a grid of {old[0]} x {old[1]} to {new[0]} x {new[1]}. Use "
        '"interpolate".'
      )
    places = places[: new[0], : new[1]]
  elif mode == "interpolate":
    places = jax.image.resize(places, (*new, dim), "bilinear", antialias=False)
  else:
    raise ValueError(f'resize_positions: expected "cut" or "interpolate", got {mode!r}.')
  places = places.reshape(-1, dim)
  return {**params, "positions": jnp.concatenate([positions[:SPECIAL], places])}
