"""Fixtures for all tests, which run on eight simulated CPU devices."""

import os

# Before jax is imported: tests choose how many of the eight they use. Programs run once or twice:
# compiling them less thoroughly halves the time.
os.environ["XLA_FLAGS"] = " ".join(
  [
    os.environ.get("XLA_FLAGS", ""),
    "--xla_force_host_platform_device_count=8",
    "--xla_backend_optimization_level=0",
  ]
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from pathlib import Path

import pytest
from absl import flags


@pytest.fixture(scope="session", autouse=True)
def absl_flags():
  """Grain and others read absl flags, which only `absl.app.run` parses."""
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()


@pytest.fixture(scope="session")
def data_dir() -> Path:
  """The folder of shared recordings that `BIG_AUDIO_DATA` names; skips where it is not set."""
  folder = os.environ.get("BIG_AUDIO_DATA")
  if not folder:
    pytest.skip("needs real data: set BIG_AUDIO_DATA to the folder with fsdd, esc10, music, mnist")
  return Path(folder)
