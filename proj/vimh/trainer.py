"""Heads of synthesiser parameters that are also told what their estimates sound like.

  trainer = dict(name="proj.vimh.trainer", ..., sound=dict(weight=1.0, voice="simple", sr=8000,
                 secs=0.32, fixed=dict(note_number=43.35)))

The estimates of all heads (the expectation over classes, so that there is a gradient) are rendered
by the synthesiser itself, and so are the true parameters; the distance of the two spectra joins the
loss. Parameters are then wrong by what can be heard (compare DDSP, Engel et al. 2020).
"""

import jax.numpy as jnp

from big_audio import config as C
from big_audio.dsp import voices
from big_audio.objectives import spectral
from big_audio.trainers import multihead


class Trainer(multihead.Trainer):
  """`multihead` with `sound`: a spectral loss on the rendered estimates."""

  def _configure(self, *, sound, **kw):
    super()._configure(**kw)
    self.sound = C.call("config.trainer.sound", _sound, **C.to_dict(sound))
    silent = [h for h in self.heads if not (self.heads[h]["scale"].physical and
                                            self.heads[h]["value"])]  # fmt: skip
    if silent:
      raise ValueError(
        f"config.trainer.heads: {', '.join(silent)} cannot be rendered: give min, max, step and "
        "value, or leave out config.trainer.sound."
      )

  def extra(self, batch, outputs) -> dict:
    """{"sound": (distance of the sounds f32[B], weight)}."""
    s = self.sound
    true = {
      h: self._column(batch, h, head["value"]).astype(jnp.float32) for h, head in self.heads.items()
    }
    render = lambda values: voices.render(
      s["voice"], {**s["fixed"], **values}, s["sr"], s["secs"], s["samples"]
    )
    found, wanted = (render(v)[..., None] for v in (self.estimates(outputs), true))
    # Short sounds do not fill the longest windows.
    windows = [w for w in spectral.MULTI_SCALE_WINDOWS if w <= found.shape[1]]
    loss = spectral.multi_scale_spectral(found, wanted, windows=windows)
    return {"sound": (loss, s["weight"])}


def _sound(*, weight, voice, sr, secs, fixed=None, samples=None):
  """Settings.

  Args:
    weight: of the spectral loss.
    voice: a key of `dsp.voices.VOICES`; sr: Hz; secs: length of its sounds.
    fixed: {parameter: value} of those that do not vary.
    samples: how many of the first are rendered; None: all.
  """
  C.pick("config.trainer.sound.voice", voices.VOICES, voice)
  return dict(weight=weight, voice=voice, sr=sr, secs=secs, fixed=fixed or {}, samples=samples)
