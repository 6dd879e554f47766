"""LoRA (Hu et al. 2106.09685) on parameter trees: W + alpha / r * a b; no model knows of it.

  adapters = init(key, params, r"net/block_\\d+/attend/(query|value)/kernel", rank=8)
  net.apply({"params": merge(params, adapters, alpha=16.0)}, x)

`merge` is what training applies at every step and what an export applies once. There is no dropout
on the adapters' inputs: they never exist as activations.
"""

import math
import re
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from big_audio import trees


def init(rng: jax.Array, params: Mapping, pattern: str, rank: int) -> dict:
  """Adapters of all kernels that a pattern matches; with b = 0 they change nothing yet.

  Args:
    rng: key.
    params: nested dict of arrays, or of their shapes.
    pattern: regex of whole '/'-joined names; kernels only.
    rank: r.

  Returns:
    {parents: {"kernel": {"a": f32[I, r], "b": f32[r, O]}}}, I inputs by O outputs of the layer.

  Raises:
    ValueError: a pattern that matches nothing or something other than a kernel, or a rank that is
      not below both sides of a kernel.
  """
  flat = trees.flatten(params)
  names = [n for n in flat if re.fullmatch(pattern, n)]
  kernels = [n for n in flat if n.endswith("/kernel")]
  if not names:
    some = ", ".join(kernels[:4])
    raise ValueError(f"lora: pattern {pattern!r} matches no parameter. Kernels are {some}, ...")
  out = {}
  for i, name in enumerate(names):
    if name not in kernels:
      raise ValueError(f"lora: pattern {pattern!r} matches {name}, which is no kernel.")
    inputs, outputs = _sides(name, flat[name].shape)
    if not 1 <= rank < min(inputs, outputs):
      raise ValueError(
        f"lora: rank={rank}: expected at least 1 and less than both sides of {name}, "
        f"{inputs} x {outputs}."
      )
    key = jax.random.fold_in(rng, i)
    # a as a dense layer begins, b = 0: the first step moves b alone.
    out[f"{name}/a"] = jax.random.normal(key, (inputs, rank)) / math.sqrt(inputs)
    out[f"{name}/b"] = jnp.zeros((rank, outputs))
  return trees.unflatten(out)


def merge(params: Mapping, adapters: Mapping, alpha: float) -> dict:
  """`params` with alpha / r * a b added to every kernel that has adapters, summed in float32.

  Args:
    params: nested dict of arrays.
    adapters: of `init`.
    alpha: scale; the update is alpha / r times the product.

  Raises:
    ValueError: adapters of kernels that are not there.
  """
  flat, pairs = trees.flatten(params), trees.flatten(adapters)
  names = {n.rpartition("/")[0] for n in pairs}
  if lost := sorted(names - flat.keys()):
    raise ValueError(f"lora: adapters of {lost[:4]}, which are not among the parameters.")
  for name in names:
    a, b, w = pairs[f"{name}/a"], pairs[f"{name}/b"], flat[name]
    change = jnp.matmul(a, b, precision="highest") * (alpha / a.shape[1])
    flat[name] = (w.astype(jnp.float32) + change.reshape(w.shape)).astype(w.dtype)
  return trees.unflatten(flat)


def _sides(name: str, shape) -> tuple[int, int]:
  """(inputs, outputs) of a kernel.

  Outputs stand last, except in the projections to heads of an attention, [D, H, D/H].
  """
  split = 1 if re.search(r"/(query|key|value)/kernel$", name) else len(shape) - 1
  return math.prod(shape[:split]), math.prod(shape[split:])
