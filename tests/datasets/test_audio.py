"""Spans by seeking equal slices of the whole; damage is a DecodeError with a name."""

import numpy as np
import pytest
import soundfile
import soxr

from big_audio.datasets import audio
from big_audio.datasets.audio import AudioFile
from big_audio.datasets.errors import DecodeError
from big_audio.pp import builder
from tests.datasets.conftest import corrupt_flac, cut, tone, write

NOISE = np.random.default_rng(0).uniform(-0.4, 0.4, (30_001, 2)).astype(np.float32)


@pytest.mark.parametrize("suffix,atol", [("wav", 0), ("flac", 0), ("ogg", 0), ("mp3", 2e-4)])
def test_a_span_equals_the_slice_of_the_whole(tmp_path, suffix, atol):
  path = write(tmp_path / f"x.{suffix}", NOISE, 44100)
  whole = soundfile.read(path, dtype="float32", always_2d=True)[0]
  file = AudioFile.open(path)
  assert file.shape == whole.shape and file.sr == 44100
  np.testing.assert_array_equal(file.numpy(), whole)
  for start, n in [(0, 10), (12_345, 4000), (30_000, 1), (5, 0)]:
    span = file.read(start, n)
    assert span.dtype == np.float32
    np.testing.assert_allclose(span, whole[start : start + n], atol=atol)


@pytest.mark.parametrize(
  "native,sr", [(44100, 16000), (48000, 44100), (8000, 16000), (44100, 8000), (11025, 44101)]
)
def test_a_resampled_span_equals_the_slice_of_the_resampled_whole(tmp_path, native, sr):
  path = write(tmp_path / "x.wav", NOISE, native, subtype="FLOAT")
  file = AudioFile.open(path, sr=sr)
  total = file.shape[0]
  assert total == -(-len(NOISE) * sr // native)
  want = soxr.resample(NOISE, native, sr)
  assert 0 <= total - len(want) <= 1
  want = np.pad(want, ((0, total - len(want)), (0, 0)))
  for start, n in [(0, total), (0, 100), (total // 3, 2000), (total - 50, 50)]:
    np.testing.assert_allclose(file.read(start, n), want[start : start + n], atol=1e-6)


def test_channels_are_converted_when_asked(tmp_path):
  stereo = AudioFile.open(write(tmp_path / "s.wav", NOISE, 8000, subtype="FLOAT"), channels=1)
  np.testing.assert_allclose(stereo.numpy(), NOISE.mean(1, keepdims=True), atol=1e-7)
  mono = AudioFile.open(write(tmp_path / "m.wav"), channels=2)
  assert mono.shape == (8000, 2) and (mono.numpy()[:, 0] == mono.numpy()[:, 1]).all()
  with pytest.raises(ValueError, match="cannot make 3 channels of 2"):
    AudioFile.open(tmp_path / "s.wav", channels=3)


def test_a_segment_of_a_file_and_a_file_in_memory(tmp_path):
  path = write(tmp_path / "x.wav", NOISE, 8000, subtype="FLOAT")
  part = AudioFile(path, 8000, 1000, 2, start=500)
  np.testing.assert_array_equal(part.numpy(), NOISE[500:1500])
  example = builder.build("decode_audio|crop(samples=10, mode='start')")(
    {"encoded": path.read_bytes(), "id": "x"}, np.random.default_rng(0)
  )
  assert example["sr"] == 8000 and "encoded" not in example
  np.testing.assert_array_equal(example["wav"], NOISE[:10])


def test_spans_outside_of_the_recording(tmp_path):
  file = AudioFile.open(write(tmp_path / "x.wav"))
  for start, n in [(-1, 5), (7999, 2), (0, -1)]:
    with pytest.raises(ValueError, match="outside of the 8000 at 8000 Hz"):
      file.read(start, n)


def test_damage_is_a_decode_error(tmp_path):
  with pytest.raises(DecodeError):
    AudioFile.open(cut(write(tmp_path / "zero.wav"), 0))
  text = tmp_path / "text.wav"
  text.write_text("not audio at all " * 100)
  with pytest.raises(DecodeError):
    AudioFile.open(text)
  with pytest.raises(DecodeError):
    AudioFile.open(tmp_path / "absent.wav")
  flac = AudioFile.open(corrupt_flac(tmp_path / "bad.flac"), name="bad")
  assert flac.shape == (20_000, 1)
  with pytest.raises(DecodeError, match='"bad"'):
    flac.numpy()


def test_a_file_cut_after_it_was_indexed(tmp_path):
  path = write(tmp_path / "x.wav")
  file = AudioFile.open(path, name="x.wav")
  cut(path, 4000)
  with pytest.raises(DecodeError, match=r'"x\.wav": ends at sample'):
    file.numpy()
  write(path, tone(), 16000)
  with pytest.raises(DecodeError, match=r"16000 Hz, 8000 Hz when"):
    file.read(0, 10)
  write(path, tone(channels=2), 8000)
  with pytest.raises(DecodeError, match="2 channels, 1 when"):
    file.read(0, 10)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_samples_that_are_not_finite(tmp_path, value):
  wav = tone()
  wav[100] = value
  file = AudioFile.open(write(tmp_path / "x.wav", wav, subtype="FLOAT"))
  assert np.isfinite(file.read(200, 100)).all()
  with pytest.raises(DecodeError, match="NaN or infinite"):
    file.numpy()


def test_m4a_without_pyav_names_the_extra(tmp_path, monkeypatch):
  import sys

  monkeypatch.setitem(sys.modules, "av", None)
  with pytest.raises(ValueError, match=r'pip install "big_audio\[m4a\]"'):
    audio.probe(tmp_path / "x.m4a")


@pytest.mark.parametrize("suffix,form", [("m4a", None), ("mp4", None), ("aac", "adts")])
def test_m4a_spans_equal_slices_of_the_whole(tmp_path, suffix, form):
  av = pytest.importorskip("av", reason="needs PyAV (extra m4a)")
  path, sr = tmp_path / f"x.{suffix}", 44100
  sweep = np.sin(2 * np.pi * np.linspace(200, 900, 2 * sr) * np.linspace(0, 2, 2 * sr))
  wav = np.stack([sweep, sweep[::-1]], 1).astype(np.float32) * 0.5
  with av.open(str(path), "w", format=form) as f:
    stream = f.add_stream("aac", rate=sr, layout="stereo")
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(wav.T), "fltp", "stereo")
    frame.sample_rate, frame.pts = sr, 0
    f.mux([*stream.encode(frame), *stream.encode(None)])
  file = AudioFile.open(path)
  assert file.native_sr == sr and file.channels == 2 and abs(file.shape[0] - len(wav)) < 3000
  whole = file.numpy()
  if form is None:  # bare aac keeps the encoder's delay
    assert np.mean((whole[: len(wav)] - wav[: len(whole)]) ** 2) < 0.03 * np.mean(wav**2)
  # Substituted noise is drawn anew; a shift by one sample would differ by 0.06.
  for start, n in [(0, 100), (40_000, 4000), (file.shape[0] - 500, 500)]:
    np.testing.assert_allclose(file.read(start, n), whole[start : start + n], atol=1e-2)
  cut(path, path.stat().st_size // 2)
  with pytest.raises(DecodeError):
    file.numpy()
