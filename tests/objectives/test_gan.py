import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from big_audio.models import discriminator
from big_audio.objectives import gan


def scales(*logits):
  return [
    (jnp.asarray(x, jnp.float32)[:, None], [jnp.asarray(x, jnp.float32)[:, None]]) for x in logits
  ]


def test_losses_are_the_definitions():
  real, fake = scales([2.0, 0.5], [0.0, 1.0]), scales([-2.0, 0.5], [1.0, -0.5])
  np.testing.assert_allclose(
    gan.discriminator(real, fake), [(0 + 0 + 1 + 2) / 2, (0.5 + 1.5 + 0 + 0.5) / 2]
  )
  np.testing.assert_allclose(gan.generator(fake), [(2 - 1) / 2, (-0.5 + 0.5) / 2])
  np.testing.assert_allclose(
    gan.discriminator(real, fake, "least_squares"),
    [(1 + 4 + 1 + 1) / 2, (0.25 + 0.25 + 0 + 0.25) / 2],
  )
  np.testing.assert_allclose(gan.generator(fake, "least_squares"), [(9 + 0) / 2, (0.25 + 2.25) / 2])
  np.testing.assert_allclose(gan.feature_matching(real[:1], fake[:1]), [2, 0], atol=1e-5)
  with pytest.raises(ValueError, match="hinge"):
    gan.generator(fake, "wasserstein")
  with pytest.raises(ValueError, match="1 scales of real and 2"):
    gan.discriminator(real[:1], fake)


def test_one_loss_has_the_gradients_of_both_players():
  judge = lambda d, y: [(d * y**2, [d * y])]
  make = lambda g, z: g * z
  z, x = jnp.array([[0.4], [-0.7]]), jnp.array([[1.0], [0.2]])
  sg = jax.lax.stop_gradient

  def both(g, d):
    y = make(g, z)
    return jnp.mean(
      gan.generator(judge(sg(d), y)) + gan.discriminator(judge(d, x), judge(d, sg(y)))
    )

  got = jax.grad(both, (0, 1))(0.8, 0.3)
  own_g = jax.grad(lambda g: jnp.mean(gan.generator(judge(0.3, make(g, z)))))(0.8)
  own_d = jax.grad(lambda d: jnp.mean(gan.discriminator(judge(d, x), judge(d, make(0.8, z)))))(0.3)
  np.testing.assert_allclose(got, (own_g, own_d), rtol=1e-6)


@pytest.mark.slow
def test_discriminator_model_learns_to_tell_a_tone_from_noise():
  net = discriminator.Model(windows=(128, 64), width=4, depth=2)
  t = np.arange(800) / 8000
  tone = np.stack([0.3 * np.sin(2 * np.pi * f * t) for f in (300, 500, 900, 1300)])[..., None]
  noise = 0.2 * np.random.default_rng(0).standard_normal((4, 800, 1))
  tone, noise = tone.astype(np.float32), noise.astype(np.float32)
  params = net.init(jax.random.key(0), tone)
  out = net.apply(params, tone)
  assert len(out) == 2 and [len(f) for _, f in out] == [2, 2]

  adam = optax.adam(3e-3)
  state = adam.init(params)

  @jax.jit
  def step(p, state):
    loss = lambda p: jnp.mean(gan.discriminator(net.apply(p, tone), net.apply(p, noise)))
    value, g = jax.value_and_grad(loss)(p)
    change, state = adam.update(g, state)
    return optax.apply_updates(p, change), state, value

  first = step(params, state)[2]
  for _ in range(60):
    params, state, value = step(params, state)
  assert value < 0.5 * first
