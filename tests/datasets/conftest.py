"""Files for the tests of sources."""

import numpy as np
import pytest
import soundfile


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def tone(secs=1.0, sr=8000, channels=1, hz=440.0):
  """f32[T,C] in [-1,1]."""
  t = np.arange(round(secs * sr)) / sr
  return np.stack(
    [0.5 * np.sin(2 * np.pi * hz * (c + 1) * t) for c in range(channels)], axis=1
  ).astype(np.float32)


def write(path, wav=None, sr=8000, **kw):
  path.parent.mkdir(parents=True, exist_ok=True)
  soundfile.write(path, tone(sr=sr) if wav is None else wav, sr, **kw)
  return path


def cut(path, keep):
  path.write_bytes(path.read_bytes()[:keep])
  return path


def corrupt_flac(path):
  """A flac file whose header is good and whose body is not."""
  write(path, np.random.default_rng(0).uniform(-0.5, 0.5, (20_000, 1)), 8000)
  data = bytearray(path.read_bytes())
  data[200 : len(data) - 200] = bytes(len(data) - 400)
  path.write_bytes(data)
  return path
