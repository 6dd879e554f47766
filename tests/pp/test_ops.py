"""Each operation against its plain definition."""

import io
import re

import numpy as np
import pytest

from big_audio.datasets.errors import DecodeError
from big_audio.pp import builder


def run(spec, seed=0, **example):
  return builder.build(spec)(example, np.random.default_rng(seed))


def ramp(n, c=1):
  return (np.arange(n * c, dtype=np.float32) / (n * c)).reshape(n, c)


def test_rename_refuses_to_overwrite():
  assert run("rename('a', 'b')", a=1) == {"b": 1}
  with pytest.raises(ValueError, match='would overwrite "b"'):
    run("rename('a', 'b')", a=1, b=2)


def test_drop_needs_its_keys():
  with pytest.raises(ValueError, match='finds no "b"'):
    run("drop('b')", a=1)


def test_value_range():
  x = np.uint8([[0, 255, 51]])
  np.testing.assert_allclose(run("value_range(-1, 1)", image=x)["image"], [[-1, 1, -0.6]], 1e-6)
  out = run("value_range(0, 1, -1, 1, clip=True, key='x')", x=np.float32([-3, 0, 2]))["x"]
  assert out.dtype == np.float32 and out.tolist() == [0, 0.5, 1]
  with pytest.raises(ValueError, match="empty input range"):
    builder.build("value_range(0, 1, 2, 2)")


def test_normalise_flatten_onehot():
  x = np.float32([[1, 2], [3, 4]])
  assert run("normalise([1, 2], [1, 2], key='x')", x=x)["x"].tolist() == [[0, 0], [2, 1]]
  with pytest.raises(ValueError, match="std > 0"):
    builder.build("normalise(0, 0, key='x')")
  assert run("flatten('x')", x=x)["x"].tolist() == [1, 2, 3, 4]
  assert run("onehot(3)", label=1)["label"].tolist() == [0, 1, 0]
  assert run("onehot(3, to='y')", label=1)["label"] == 1
  with pytest.raises(ValueError, match="0 <= label < 3"):
    run("onehot(3)", label=3)
  with pytest.raises(ValueError, match="needs integers"):
    run("onehot(3)", label=1.5)


def test_crop_modes():
  wav = ramp(10)
  assert run("crop(samples=4, mode='start')", wav=wav)["wav"].tolist() == wav[:4].tolist()
  assert run("crop(samples=4, mode='centre')", wav=wav)["wav"].tolist() == wav[3:7].tolist()
  starts = {int(run("crop(secs=2)", s, wav=wav, sr=2)["wav"][0, 0] * 10 + 0.5) for s in range(80)}
  assert starts == set(range(7))


def test_crop_keeps_a_short_recording_where_it_is_told_to():
  wav = ramp(5)
  assert run("crop(samples=6, short='keep')", wav=wav)["wav"] is wav
  assert len(run("crop(samples=4, short='keep')", wav=wav)["wav"]) == 4
  with pytest.raises(ValueError, match='expected "refuse" or "keep"'):
    run("crop(samples=4, short='pad')", wav=wav)


def test_crop_of_a_short_recording_says_what_to_write():
  with pytest.raises(ValueError) as e:
    run("crop(secs=10)", wav=np.zeros((220500, 1), np.float32), sr=44100, id="id7")
  assert str(e.value) == (
    'pp: crop(secs=10) needs 441000 samples, "id7" has 220500 (5.0 s). '
    'Use "pad(secs=10)|crop(...)".'
  )


class Unread:
  """Stands for a file: counts what is read."""

  shape = (100, 1)

  def __init__(self):
    self.spans = []

  def read(self, start, n):
    self.spans.append((start, n))
    return np.zeros((n, 1), np.float32)

  def numpy(self):
    return self.read(0, 100)


def test_crop_and_pad_read_no_more_than_they_need():
  file = Unread()
  out = run("pad(samples=50)|crop(samples=7, mode='centre')", wav=file)
  assert file.spans == [(46, 7)] and out["wav"].shape == (7, 1)
  assert run("pad(samples=120)", wav=Unread())["wav"].shape == (120, 1)


def test_pad_modes():
  wav = np.ones((2, 1), np.float32)
  pad = lambda mode: run(f"pad(samples=5, mode='{mode}')", wav=wav)["wav"][:, 0].tolist()
  assert pad("end") == [1, 1, 0, 0, 0] and pad("start") == [0, 0, 0, 1, 1]
  assert pad("centre") == [0, 1, 1, 0, 0] and sum(pad("random")) == 2
  assert run("pad(secs=1)", wav=wav, sr=2)["wav"] is wav


def test_the_mask_of_padding():
  wav = np.ones((2, 1), np.float32)
  mask = lambda mode: run(f"pad(samples=5, mode='{mode}', mask=True)", wav=wav)["wav_mask"].tolist()
  assert mask("end") == [1, 1, 0, 0, 0] and mask("centre") == [0, 1, 1, 0, 0]
  assert "wav_mask" not in run("pad(samples=5)", wav=wav)
  out = run("pad(samples=6, mask=True)|crop(samples=4, mode='centre')", wav=ramp(4))
  assert out["wav_mask"].tolist() == [1, 1, 1, 0] and out["wav"].shape == (4, 1)
  file = Unread()
  out = run("pad(samples=50, mask=True)|crop(samples=7)|keep('wav', 'wav_mask')", wav=file)
  assert [s[1] for s in file.spans] == [7], "a long recording stays unread"
  assert out["wav_mask"].dtype == bool and out["wav_mask"].tolist() == [True] * 7
  out = run("pad(samples=5, key='a', mask=True)", a=wav)
  assert out["a_mask"].sum() == 2


@pytest.mark.parametrize(
  "op", ["pad(samples=9)", "pad(samples=2, mask=True)", "resample(4)", "flatten('wav')"]
)
def test_what_changes_lengths_comes_before_a_mask(op):
  words = re.escape(op) + ' changes the length of "wav".*only crop'
  with pytest.raises(ValueError, match=words):
    run(f"pad(samples=5, mask=True)|{op}", wav=ramp(3), sr=8)


def test_length_is_free_before_a_mask():
  spec = "resample(16)|pad(samples=12)|pad(samples=14, mask=True)|crop(samples=13)|mono|gain(-6)"
  out = run(spec, wav=ramp(3), sr=8)
  assert out["wav"].shape == (13, 1) and out["wav_mask"].shape == (13,)


def test_channels():
  stereo = np.float32([[0, 1], [2, 4]])
  assert run("mono", wav=stereo)["wav"].tolist() == [[0.5], [3]]
  assert run("stereo", wav=stereo[:, :1])["wav"].tolist() == [[0, 0], [2, 2]]
  assert run("channels(2)", wav=stereo)["wav"].tolist() == stereo.tolist()
  with pytest.raises(ValueError, match="cannot make 3 channels of 2"):
    run("channels(3)", wav=stereo)


def test_levels():
  wav = ramp(100, 2) - 0.5
  np.testing.assert_allclose(run("gain(-20)", wav=wav)["wav"], wav / 10, rtol=1e-6)
  gains = [run("gain(-6, 6)", s, wav=wav)["wav"][0, 0] / wav[0, 0] for s in range(50)]
  assert 0.5 < min(gains) < 0.6 and 1.7 < max(gains) < 2
  rms = lambda x: float(np.sqrt(np.mean(x**2)))
  np.testing.assert_allclose(rms(run("rms_normalise(-20)", wav=wav)["wav"]), 0.1, rtol=1e-5)
  np.testing.assert_allclose(abs(run("rms_normalise(0)", wav=wav)["wav"]).max(), 1, rtol=1e-5)
  np.testing.assert_allclose(abs(run("peak_normalise(0.5)", wav=wav)["wav"]).max(), 0.5, rtol=1e-6)
  zero = np.zeros((4, 1), np.float32)
  assert not run("rms_normalise|peak_normalise", wav=zero)["wav"].any()


def test_to_float_of_pcm():
  assert run("to_float", wav=np.int16([-32768, 16384]))["wav"].tolist() == [[-1], [0.5]]
  assert run("to_float", wav=np.uint8([0, 128]))["wav"].tolist() == [[-1], [0]]
  out = run("to_float", wav=np.int32([[-(2**31), 2**30]]))["wav"]
  assert out.tolist() == [[-1, 0.5]] and out.dtype == np.float32
  with pytest.raises(ValueError, match="got int64"):
    run("to_float", wav=np.int64([1]))


def test_resample_keeps_a_tone():
  t = np.arange(8000) / 8000
  out = run("resample(16000)", wav=np.sin(2 * np.pi * 440 * t).astype(np.float32)[:, None], sr=8000)
  assert out["sr"] == 16000 and out["wav"].shape == (16000, 1)
  want = np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
  np.testing.assert_allclose(out["wav"][1000:-1000, 0], want[1000:-1000], atol=1e-3)


def test_decode_image_and_resize():
  from PIL import Image

  x = np.zeros((8, 6, 3), np.uint8)
  x[:, 3:] = 200
  data = io.BytesIO()
  Image.fromarray(x).save(data, "png")
  out = run("decode_image", image=data.getvalue())["image"]
  assert out.dtype == np.uint8 and (out == x).all()
  assert run("decode_image(1)", image=data.getvalue())["image"].shape == (8, 6, 1)
  assert run("resize(4, 2)", image=x)["image"].shape == (4, 2, 3)
  floats = run("resize(4)", image=x.astype(np.float32) / 200)["image"]
  assert floats.dtype == np.float32 and floats.shape == (4, 4, 3) and floats[0, 0, 0] == 0
  assert run("flip_lr(1.0)", image=x)["image"][0, 0, 0] == 200
  with pytest.raises(DecodeError, match='"pic7" is not a readable picture'):
    run("decode_image", image=b"not a picture", id="pic7")


def test_require_sr():
  wav = ramp(10)
  assert run("require_sr(8000)", wav=wav, sr=8000)["wav"] is wav
  with pytest.raises(ValueError, match=r'require_sr\(8000\) got "a" at 44100 Hz.*resample\(8000\)'):
    run("require_sr(8000)", wav=wav, sr=44100, id="a")
