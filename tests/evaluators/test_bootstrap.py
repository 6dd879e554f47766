import numpy as np
import pytest
from scipy import stats

from big_audio.evaluators import bootstrap
from big_audio.evaluators.bootstrap import mean_interval


def test_coverage():
  """About 95 of 100 intervals contain the true mean, of a skewed distribution too."""
  rng = np.random.default_rng(0)
  for draw, truth in ((rng.standard_normal, 0.0), (rng.standard_exponential, 1.0)):
    found = [mean_interval(draw(60), resamples=400, seed=i) for i in range(400)]
    inside = np.mean([i.lo <= truth <= i.hi for i in found])
    assert 0.91 <= inside <= 0.975
  half = [mean_interval(rng.standard_normal(60), level=0.5, resamples=400) for _ in range(400)]
  assert 0.43 <= np.mean([i.lo <= 0 <= i.hi for i in half]) <= 0.57


def test_against_scipy():
  x = np.random.default_rng(1).standard_exponential(80)
  got = mean_interval(x, resamples=20000)
  want = stats.bootstrap((x,), np.mean, method="percentile", n_resamples=20000, rng=0)
  assert got.mean == x.mean()
  assert got.lo == pytest.approx(want.confidence_interval.low, abs=0.01)
  assert got.hi == pytest.approx(want.confidence_interval.high, abs=0.01)


def test_seeded_chunked_and_without_missing_values(monkeypatch):
  x = np.random.default_rng(2).standard_normal(50)
  want = mean_interval(x)
  assert want == mean_interval(x) == mean_interval([*x[:20], np.nan, *x[20:]])
  assert want != mean_interval(x, seed=1)
  monkeypatch.setattr(bootstrap, "_CHUNK", 50 * 7)
  assert mean_interval(x) == want
  assert np.isnan(mean_interval([np.nan])).all()
  assert mean_interval([3.0]) == (3, 3, 3)
  with pytest.raises(ValueError, match="level"):
    mean_interval(x, level=95)
