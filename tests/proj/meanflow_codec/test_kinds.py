"""Codecs of two channels, and codecs with learned codebooks: windows, files and streams."""

import copy
import functools
import io

import jax
import numpy as np
import pytest
import soundfile

from proj.meanflow_codec import bitstream, codec, streams, windows
from tests.proj.meanflow_codec.test_windows import clear, make_runner

SR, T = 8000, 7001
RUNS = {"stereo": dict(arg=",channels=2"), "rvq": dict(method="ae", arg=",quantizer=rvq,kbps=1")}


@functools.cache
def codec_of(kind):
  return windows.WindowCodec(make_runner(**RUNS[kind]), core=13)


@pytest.fixture(params=["rvq", pytest.param("stereo", marks=pytest.mark.slow)])
def mine(request):
  return codec_of(request.param)


@pytest.fixture
def wav(mine):
  """f32[T, C], what a 16-bit file holds; the right channel is another sound, and louder."""
  gain = np.array([0.05, 0.3])[: mine.channels]
  x = gain * np.random.default_rng(2).standard_normal((T, mine.channels))
  return streams.to_pcm(x).astype(np.float32) / 32768


def test_chunks_whole_and_batches_agree(mine, wav):
  runner, codes = mine._runner, mine.encode(wav)
  f, hop = len(codes), mine.hop
  found = windows.whole(runner, wav)
  one, sure = found["codes"], clear(runner, found["lat"])
  assert codes.shape == one.shape == (44, len(mine.levels))
  assert sure.mean() > 0.9
  np.testing.assert_array_equal(codes[sure], one[sure])
  assert len(np.unique(codes)) > 20
  batch = np.stack([np.pad(w, ((0, f * hop - T), (0, 0))) for w in (wav, wav[::-1])])
  both = np.asarray(runner.predict("encode", {"wav": batch})["codes"])
  np.testing.assert_array_equal(both[0][sure], one[sure])
  assert (both[1] != one).any()
  nfe = int(mine.has_refiner)
  out = mine.decode(codes, T, nfe=nfe, seed=5)
  assert out.shape == wav.shape
  given = {
    "codes": np.stack([codes, codes[::-1]]), "mask": np.ones((2, f), bool),
    "token": np.tile(np.arange(f, dtype=np.int32), (2, 1)), "seed": np.asarray([5, 6], np.uint32),
  }  # fmt: skip
  again = np.asarray(runner.predict("decode", given, nfe=nfe)["wav"])
  np.testing.assert_allclose(out, again[0, :T], atol=2e-5 * max(1.0, np.abs(out).max()))


def test_files_and_streams(mine, wav, tmp_path):
  source, coded, back = (str(tmp_path / n) for n in ("in.wav", "a.bac", "out.wav"))
  soundfile.write(source, wav, SR)
  nfe = int(mine.has_refiner)
  info = codec.encode_file(mine, source, coded, seed=9)
  assert (info["channels"], info["samples"]) == (mine.channels, T)
  assert info["bits_per_frame"] == (30 if mine.channels == 2 else 20)
  with bitstream.Reader(coded) as r:
    np.testing.assert_array_equal(r.read(), mine.encode(wav))
  codec.decode_file(mine, coded, back, nfe=nfe)
  got, sr = soundfile.read(back, dtype="int16", always_2d=True)
  expected = streams.to_pcm(mine.decode(mine.encode(wav), T, nfe=nfe, seed=9))
  assert sr == SR and got.shape == wav.shape
  np.testing.assert_array_equal(got, expected)
  sink = io.BytesIO()
  pcm = streams.to_pcm(wav).astype("<i2")
  streams.pipe(mine, io.BytesIO(pcm.tobytes()), sink, nfe=nfe, seed=9)
  np.testing.assert_array_equal(
    np.frombuffer(sink.getvalue(), "<i2").reshape(-1, wav.shape[1]), got
  )


def test_channels_are_not_one_another():
  """What one channel holds reaches the codes of all, and swapped channels are another recording."""
  mine = codec_of("stereo")
  x = np.random.default_rng(2).standard_normal((3200, 2)).astype(np.float32)
  left, right = x * [0.2, 0], x * [0, 0.2]
  assert (mine.encode(left) != mine.encode(right)).mean() > 0.3
  assert (mine.encode(x * 0.2) != mine.encode(left)).any()
  out = mine.decode(mine.encode(left), 3200)
  assert np.abs(out[:, 0] - out[:, 1]).max() > 1e-4
  with pytest.raises(ValueError, match="multiple of 4 bytes"):
    streams.pipe(mine, io.BytesIO(bytes(4 * 200 + 2)), io.BytesIO())


def test_learned_codebooks_are_packed_only(tmp_path):
  mine = codec_of("rvq")
  assert mine.levels == ((1024,), (1024,)) and mine.kbps == 1.0 and mine.coder is None
  soundfile.write(tmp_path / "in.wav", np.zeros(1600), SR)
  with pytest.raises(ValueError, match="--coding range needs a run with config.models.prior"):
    codec.encode_file(mine, str(tmp_path / "in.wav"), str(tmp_path / "a.bac"), coding="range")
  assert [p.name for p in tmp_path.iterdir()] == ["in.wav"]
  # The codebooks are part of what names a model: a file is not decoded with others.
  run = copy.copy(mine._runner)
  run.variables = jax.tree_util.tree_map_with_path(
    lambda path, x: -x if "books_1" in str(path) and "total" in str(path) else x, run.variables
  )
  assert windows.WindowCodec(run).model_hash != mine.model_hash
