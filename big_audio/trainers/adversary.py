"""The adversarial part of a waveform trainer: settings, and both players' losses in one step."""

import dataclasses
from collections.abc import Callable

import jax

from big_audio.config import nearest
from big_audio.objectives import gan

JUDGED = ("codec", "refiner")


@dataclasses.dataclass(frozen=True)
class Adversary:
  """Settings of the adversarial part.

  weight: of the generator's loss beside the reconstruction.
  feature_weight: of feature matching.
  of: whose output is judged: "codec", the plain decoder's until the refiner begins; "refiner",
    its sample in one evaluation.
  begin_percent: of the run, before which the codec has no adversary; None: 30. The refiner's
    begins with it.
  kind: see `objectives.gan`.
  """

  weight: float = 0.1
  feature_weight: float = 0.2
  of: str = "codec"
  begin_percent: float | None = None
  kind: str = "hinge"

  def __post_init__(self):
    if self.of not in JUDGED:
      raise ValueError(f"config.trainer.gan.of={self.of!r} is unknown. {nearest(self.of, JUDGED)}")
    if self.of == "refiner" and self.begin_percent is not None:
      raise ValueError(
        f"config.trainer.gan.begin_percent={self.begin_percent!r}: the refiner's adversary begins "
        "with the refiner; remove it."
      )

  @property
  def begin(self) -> float:
    """Per cent of the run at which the codec's adversary begins."""
    return 30.0 if self.begin_percent is None else self.begin_percent

  def losses(self, judge: Callable, params, real, fake) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Generator's and discriminator's losses.

    Args:
      judge: (params, wav) -> scales, see `objectives.gan`.
      params: of the discriminator.
      real: f32[B, T, C], recordings.
      fake: f32[B, T, C], what the generator made of them.

    Returns:
      (f32[B] to add to the generator's loss, {name: f32[B]}).
    """
    sg = jax.lax.stop_gradient
    true = judge(params, real)
    own, fooled = judge(params, sg(fake)), judge(sg(params), fake)
    logs = {
      "gan_generator": gan.generator(fooled, self.kind),
      "gan_features": gan.feature_matching(true, fooled),
      "gan_discriminator": gan.discriminator(true, own, self.kind),
    }
    generator = self.weight * logs["gan_generator"] + self.feature_weight * logs["gan_features"]
    return generator + logs["gan_discriminator"], logs
