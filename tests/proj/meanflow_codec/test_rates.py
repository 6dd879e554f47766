"""The payload of a file has the rate that was asked for, within one per cent."""

import math

import numpy as np
import pytest

from big_audio import config as C
from proj.meanflow_codec import bitstream

RATES = [
  (8000, kbps) for kbps in (0.65, 1.0, 1.5, 2.4, 3.2, 6.0, 8.0)
] + [(sr, kbps) for sr in (24000, 48000) for kbps in (0.675, 1.5, 3.0, 4.5, 6.0, 8.0)]  # fmt: skip


def payload_kbps(levels, hop, sr, samples):
  """Of a file of random codes, by the bytes behind its header."""
  header = bitstream.Header(
    sample_rate=sr, channels=1, hop=hop, levels=levels, model_hash=bytes(16), samples=samples
  )
  sizes = [math.prod(g) for g in levels]
  codes = np.random.default_rng(0).integers(0, sizes, (header.frames, len(sizes)))
  data = bitstream.dumps(codes, header)
  return (len(data) - bitstream.info(data)["header_bytes"]) * 8e-3 / (samples / sr)


@pytest.mark.parametrize("sr, kbps", RATES)
@pytest.mark.parametrize("quantizer", ["fsq", "rvq"])
def test_stated_rates(sr, kbps, quantizer):
  if quantizer == "rvq" and not (1000 * kbps / (50 if sr == 8000 else 75) / 10).is_integer():
    kbps = 3.0  # whole stages of ten bits
  codec = C.load(f"configs/meanflow.py:sr={sr},kbps={kbps},quantizer={quantizer}").models.codec
  kinds = {"fsq": lambda q: C.to_dict(q.levels), "rvq": lambda q: [[q.size]] * q.stages}
  levels = kinds[quantizer](codec.quantizer)
  samples = 12 * sr + 123  # not a whole number of tokens
  assert payload_kbps(levels, codec.hop, sr, samples) == pytest.approx(kbps, rel=0.01)
  if len(levels) > 2:  # what quantiser dropout leaves
    lower = sum((math.prod(g) - 1).bit_length() for g in levels[:2]) * sr / codec.hop / 1000
    assert payload_kbps(levels[:2], codec.hop, sr, samples) == pytest.approx(lower, rel=0.01)
