"""The pre-norm transformer block of ViT and AST."""

import flax.linen as nn
import jax
import jax.numpy as jnp

_LONG = 512  # tokens; from here on the logits of all heads outgrow the cache of a CPU


def _attend(q, k, v):
  """softmax(q k / sqrt(Dh)) v of [B, L, H, Dh]."""
  q = q / jnp.sqrt(q.shape[-1]).astype(q.dtype)
  logits = jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=jnp.float32)
  return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(logits).astype(v.dtype), v)


def _attend_by_head(q, k, v):
  """`_attend`, head after head: a third of its time on a CPU, whose cache holds one's logits."""
  b, length, heads, dim = q.shape
  q = q / jnp.sqrt(dim).astype(q.dtype)
  split = lambda x: x.transpose(0, 2, 1, 3).reshape(b * heads, length, dim)

  def one(qkv):  # [L, Dh] each
    q, k, v = qkv
    logits = jnp.matmul(q, k.T, preferred_element_type=jnp.float32)
    return jax.nn.softmax(logits).astype(v.dtype) @ v

  out = jax.lax.map(one, (split(q), split(k), split(v)))  # [B H, L, Dh]
  return out.reshape(b, heads, length, dim).transpose(0, 2, 1, 3)


class Attention(nn.Module):
  """Multi-head self-attention with biases (Vaswani et al. 1706.03762).

  Its parameters are those of `flax.linen.MultiHeadDotProductAttention`. The softmax is float32.

  Attributes:
    heads: H; divides D.
    kernel_init: of the four dense layers.
    dtype: compute type; parameters are float32.
  """

  heads: int
  kernel_init: nn.initializers.Initializer
  dtype: jnp.dtype | None = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[B, L, D] -> [B, L, D]."""
    d = x.shape[-1]
    dense = lambda name: nn.DenseGeneral(
      (self.heads, d // self.heads), kernel_init=self.kernel_init, dtype=self.dtype, name=name
    )
    q, k, v = dense("query")(x), dense("key")(x), dense("value")(x)  # [B, L, H, D/H]
    if x.shape[1] < _LONG:
      out = _attend(q, k, v)
    else:
      out = jax.lax.platform_dependent(q, k, v, default=_attend, cpu=_attend_by_head)
    return nn.DenseGeneral(
      d, axis=(-2, -1), kernel_init=self.kernel_init, dtype=self.dtype, name="out"
    )(out)  # [B, L, D]


class Block(nn.Module):
  """x + attention(norm(x)), then x + mlp(norm(x)) with exact GELU (2010.11929, eq. 2 and 3).

  Attributes:
    heads: of the attention; divide D.
    mlp_ratio: width of the hidden layer over D.
    dropout: share of each branch's outputs left out in training.
    kernel_init: of all dense layers.
    eps: of the norms, which are float32.
    dtype: compute type of the branches; parameters and norms are float32.
  """

  heads: int
  mlp_ratio: float
  dropout: float
  kernel_init: nn.initializers.Initializer
  eps: float = 1e-5
  dtype: jnp.dtype | None = None

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """f32[B, L, D] -> f32[B, L, D]."""
    dense = lambda n, name: nn.Dense(n, kernel_init=self.kernel_init, dtype=self.dtype, name=name)
    drop = lambda x: nn.Dropout(self.dropout, deterministic=not train)(x)
    h = nn.LayerNorm(epsilon=self.eps, name="norm1")(x)
    x = x + drop(Attention(self.heads, self.kernel_init, self.dtype, name="attend")(h))
    h = nn.LayerNorm(epsilon=self.eps, name="norm2")(x)
    h = nn.gelu(dense(round(self.mlp_ratio * x.shape[-1]), "expand")(h), approximate=False)
    return x + drop(dense(x.shape[-1], "project")(h))
