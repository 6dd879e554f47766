"""Streams, lower rates and range-coded files of one codec."""

import numpy as np
import pytest

from proj.meanflow_codec import bitstream, streams, windows
from tests.proj.meanflow_codec.test_windows import make_runner

T = 12345
WAV = (0.2 * np.random.default_rng(3).standard_normal((T, 1))).astype(np.float32)


def variable_rate(config):
  config.trainer.quantizer_dropout = 0.5


def causal(config):
  config.models.codec.causal = True


@pytest.fixture(scope="module")
def runner():
  return make_runner(change=variable_rate)


@pytest.mark.parametrize("nfe", [0, 1])
@pytest.mark.parametrize("sizes", [[160], [7, 1000, 3], [T]])
def test_a_stream_is_bit_equal_to_the_whole(runner, nfe, sizes):
  codec = windows.WindowCodec(runner, core=11)
  codes = codec.encode(WAV)
  whole = codec.decode(codes, T, nfe=nfe, seed=4)
  encoder, decoder = streams.StreamEncoder(codec), streams.StreamDecoder(codec, nfe=nfe, seed=4)
  got, sound, at, i, late = [], [], 0, 0, 0
  while at < T:
    n = sizes[i % len(sizes)]
    got.append(encoder.push(WAV[at : at + n]))
    sound.append(decoder.push(got[-1]))
    at, i = min(T, at + n), i + 1
    late = max(late, at - sum(map(len, sound)))
  got.append(encoder.finish())
  sound += [decoder.push(got[-1]), decoder.finish(encoder.samples)]
  np.testing.assert_array_equal(np.concatenate(got), codes)
  np.testing.assert_array_equal(np.concatenate(sound), whole)
  if sizes == [160]:  # whole tokens: the stated latency holds
    stated = (codec.latency() + codec.latency(nfe)) * codec.sr
    # Codes come in bursts of a core, so the two need not wait their longest for the same token.
    assert stated - 2 * 11 * codec.hop < late <= stated


def test_a_causal_codec_waits_less_and_is_bit_equal():
  codec = windows.WindowCodec(make_runner(method="ae", change=causal), core=2)
  assert codec.context()[1] == 1 and codec.context(0)[1] == 1
  assert codec.latency() + codec.latency(0) == pytest.approx(0.12)
  encoder, decoder = streams.StreamEncoder(codec), streams.StreamDecoder(codec, nfe=0)
  sound = [decoder.push(encoder.push(WAV[i : i + 160])) for i in range(0, T, 160)]
  sound += [decoder.push(encoder.finish()), decoder.finish(T)]
  whole = codec.decode(codec.encode(WAV), T, nfe=0)
  np.testing.assert_array_equal(np.concatenate(sound), whole)
  # What comes later than the stated look-ahead cannot matter.
  other = WAV.copy()
  other[6400:] = 0
  again = codec.decode(codec.encode(other), T, nfe=0)
  known = 6400 - 3 * codec.hop
  np.testing.assert_array_equal(again[:known], whole[:known])
  assert np.abs(again[6400:] - whole[6400:]).max() > 1e-3


def test_stream_errors(runner):
  codec = windows.WindowCodec(runner, core=11)
  with pytest.raises(ValueError, match=r"f32\[n, 1\]"):
    streams.StreamEncoder(codec).push(WAV[:, 0])
  with pytest.raises(ValueError, match=r"int\[n, 3\]"):
    streams.StreamDecoder(codec).push(np.zeros((4, 2), np.int32))
  decoder = streams.StreamDecoder(codec)
  decoder.push(np.zeros((4, 3), np.int32))
  with pytest.raises(ValueError, match="are 5 tokens, 4 came in"):
    decoder.finish(800)
  encoder = streams.StreamEncoder(codec)
  encoder.finish()
  with pytest.raises(ValueError, match="finished"):
    encoder.push(WAV)


@pytest.mark.slow
def test_fewer_groups_are_a_lower_rate(runner):
  every, one = windows.WindowCodec(runner), windows.WindowCodec(runner, groups=1)
  assert (one.kbps, every.kbps) == (0.5, 1.5)
  codes = one.encode(WAV)
  np.testing.assert_array_equal(codes, every.encode(WAV)[:, :1])
  assert one.decode(codes, T).shape == WAV.shape
  batch = {"wav": np.pad(WAV, ((0, -T % 160), (0, 0)))[None]}
  out = runner.predict("reconstruct", batch, nfe=0, groups=1)
  np.testing.assert_allclose(out["wav"][0, :T], one.decode(codes, T, nfe=0), atol=1e-4)
  np.testing.assert_allclose(out["bits"], 78 * 10)
  with pytest.raises(ValueError, match="1 to 3 groups"):
    windows.WindowCodec(runner, groups=4)
  with pytest.raises(ValueError, match="quantizer_dropout"):
    windows.WindowCodec(make_runner(method="ae"), groups=1)


@pytest.mark.parametrize("groups", [None, 2])
def test_a_range_coded_file_of_a_model(runner, groups, tmp_path):
  codec = windows.WindowCodec(runner, groups=groups)
  codes = codec.encode(WAV)
  header = bitstream.Header(8000, 1, 160, codec.levels, codec.model_hash, 0, T, range_coded=True)
  with bitstream.Writer(tmp_path / "a.bac", header, codec.coder) as w:
    for i in range(0, len(codes), 7):
      w.write(codes[i : i + 7])
  with bitstream.Reader(tmp_path / "a.bac", codec.coder) as r:
    np.testing.assert_array_equal(r.read(), codes)
    np.testing.assert_array_equal(r.read(20, 11), codes[20:31])
  info = bitstream.info(tmp_path / "a.bac")
  # An untrained prior knows nothing but which symbols exist.
  assert info["coding"] == "range"
  assert info["payload_bytes"] == pytest.approx(header.packed_bytes, abs=16)
  with (
    pytest.raises(ValueError, match="needs the coder"),
    bitstream.Reader(tmp_path / "a.bac") as r,
  ):
    r.read()
