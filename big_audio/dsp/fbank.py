"""Log-mel filter banks after Kaldi: what AST and other AudioSet models are trained on."""

import functools
from typing import Any

import numpy as np

from big_audio.dsp.mel import mel_bank
from big_audio.dsp.namespace import check_positive, constant, namespace
from big_audio.dsp.stft import frame
from big_audio.dsp.windows import stft_window

Array = Any

# Of AudioSet's log-mels, by which AST scales its input: (x - mean) / (2 std).
AUDIOSET_MEAN, AUDIOSET_STD = -4.2677393, 4.5689974
FLOOR = 2.0**-23  # below which the logarithm does not go; float32's epsilon, as in Kaldi
PREEMPHASIS = 0.97
_CHUNK = 128  # frames that are worked on at a time, so that they stay in the cache


def num_frames(length: int, win: int = 400, hop: int = 160) -> int:
  """Frames of `length` samples that lie inside them ("snip edges"); 0 if there is none."""
  return max(1 + (length - win) // hop, 0)
