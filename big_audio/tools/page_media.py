"""Sounds and pictures inside a page: HTML that asks the network for nothing."""

import base64
import io

import numpy as np

# No script, nothing from elsewhere: only what stands in the page itself.
POLICY = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"
_KINDS = {"wav": ("WAV", "PCM_16", "audio/wav"), "ogg": ("OGG", "VORBIS", "audio/ogg")}


def uri(kind: str, data: bytes) -> str:
  """A data URI."""
  return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def sound(wav: np.ndarray, sr: int, *, form: str = "wav") -> str:
  """A sound as a data URI.

  Args:
    wav: f32[T] in [-1,1] at sr Hz; what is louder is cut.
    sr: Hz.
    form: "wav" (16 bits) or "ogg" (Vorbis, about a tenth of that).
  """
  import soundfile

  container, subtype, kind = _KINDS[form]
  out = io.BytesIO()
  with soundfile.SoundFile(out, "w", sr, 1, format=container, subtype=subtype) as f:
    # In parts: libsndfile's Vorbis encoder overflows its stack on one long write.
    for start in range(0, len(wav), sr):
      f.write(np.clip(wav[start : start + sr], -1, 1))
  return uri(kind, out.getvalue())
