"""Voices against golden sounds, plain loops and closed forms; numpy against jax."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_audio.dsp import envelopes, ladder, synth, voices
from tests.datasets import public

SR = 8000
AT = [1, 40, 79, 81, 160, 1000, 2500, 3999]
# Samples that the public generator gives there.
SAMPLES = {
  "case0": [0.0249938257, -0.990070879, -0.0245075114, 0.0245048646, 9.387727e-06, -0.779214561,
            0.268109083, -0.00913103111],
  "case2": [0.0329586379, 0.309776783, -0.417654455, -0.352014422, 0.232004851, -0.28097561,
            -0.2085554, -0.172531277],
  "case3": [0.000520958798, 0.227707133, -0.0179139189, -0.00240102853, -0.00972049031,
            0.158051535, 0.0499599315, -0.00346389203],
}  # fmt: skip
CASES = {
  "case0": dict(note_number=43.35, note_velocity=127.0, log10_decay_time=-0.3, secs=1.0),
  "case2": dict(note_number=60.0, note_velocity=64.0, log10_decay_time=0.3, secs=0.5),
  "case3": dict(note_number=43.35, note_velocity=110.0, log10_decay_time=-0.5, filter_enabled=1.0,
                filter_cutoff=800.0, filter_resonance=0.5, secs=0.5),
}  # fmt: skip


def sound(case):
  values = dict(CASES[case])
  secs = values.pop("secs")
  return voices.render("simple", {k: np.array([v]) for k, v in values.items()}, SR, secs)[0]


@pytest.mark.parametrize("case", CASES)
def test_golden_samples(case):
  np.testing.assert_allclose(sound(case)[AT], SAMPLES[case], rtol=0, atol=1e-7)
  assert sound(case)[0] == 0


def golden():
  """Arrays of the public generator."""
  with np.load(public.REFERENCE / "golden_synth.npz") as z:
    return dict(z)


@public.needed
@pytest.mark.parametrize("case", ["case0", "case2", "case3"])
def test_golden_sounds(case):
  np.testing.assert_allclose(sound(case), golden()[f"{case}_audio"], rtol=0, atol=1e-7)


def test_a_golden_sound_in_jax():
  values = dict(CASES["case3"])
  del values["secs"]
  single = {k: jnp.full(1, v, jnp.float32) for k, v in values.items()}
  got = jax.jit(lambda v: voices.render("simple", v, SR, 0.5, 1000))(single)
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got[0], sound("case3")[:1000], rtol=0, atol=1e-5)


def test_pre_emphasis():
  wav = sound("case0").astype(np.float32)
  out = voices.pre_emphasis(wav, 0.97)
  assert out.dtype == np.float32
  want = [wav[0]] + [wav[i] - 0.97 * wav[i - 1] for i in range(1, len(wav))]
  np.testing.assert_allclose(out, want, atol=1e-6)
  if public.REFERENCE:
    np.testing.assert_allclose(out, golden()["preemph_case0"], atol=1e-7)
  assert voices.pre_emphasis(wav, 0.0) is wav


def plain_adsr(n, a, d, s, r, sr):
  a, d, r = int(a * sr), int(d * sr), int(r * sr)
  if a + d + r > n:
    a, d, r = (int(x * (n / (a + d + r))) for x in (a, d, r))
  held = n - a - d - r
  out = [*np.linspace(0, 1, a), *np.linspace(1, s, d), *[s] * held]
  start = s if held else (out[-1] if d else 1.0)
  return np.array([*out, *np.linspace(start, 0, r)])


ADSR = [
  (0.1, 0.2, 0.4, 0.3),  # fits
  (0.0, 0.0, 0.7, 0.0),  # sustain alone
  (0.5, 1.0, 0.2, 0.5),  # twice too long: nothing is sustained
  (0.7, 0.0, 0.3, 0.9),  # no decay, nothing sustained: the release starts from 1
  (0.33, 0.29, 0.0, 0.77),  # shrinks to lengths that are cut, sustain 0
  (0.01, 0.01, 0.6, 0.01),  # segments of one sample
  (0.4, 0.35, 0.5, 0.3),  # 5 % too long: shrinks by less than its longest part
  (0.5, 0.01, 0.6, 0.49),  # a decay of one sample, nothing sustained
]


def test_adsr_against_its_plain_definition():
  n, sr = 100, 100
  a, d, s, r = np.array(ADSR).T
  got = envelopes.adsr(a, d, s, r, sr=sr, total=n, like=a)
  for row, p in zip(got, ADSR, strict=True):
    np.testing.assert_allclose(row, plain_adsr(n, *p, sr), atol=1e-12, err_msg=str(p))
  part = envelopes.adsr(a, d, s, r, sr=sr, total=n, like=a, samples=31)
  np.testing.assert_array_equal(part, got[:, :31])
  numbers = envelopes.adsr(0.1, 0.2, 0.4, r, sr=sr, total=n, like=a)
  np.testing.assert_allclose(numbers[0], plain_adsr(n, *ADSR[0], sr), atol=1e-12)
  device = jax.jit(lambda *p: envelopes.adsr(*p, sr=sr, total=n, like=p[0]))
  device = np.asarray(device(*(jnp.asarray(v, jnp.float32) for v in (a, d, s, r))))
  same = [0, 1, 2, 3, 6, 7]  # 0.29 * 100 is 28.99.. in one precision and 29 in the other.
  np.testing.assert_allclose(device[same], got[same], atol=1e-6)


def plain_moog(x, cutoff, resonance, sr):
  """One sound, one sample after another; what is clipped stays clipped."""
  cutoff = np.broadcast_to(cutoff, x.shape)
  s, y, out = [0.0] * 4, 0.0, []
  for sample, fc in zip(x, cutoff, strict=True):
    a = 1 / (1 + 2 * math.tan(math.pi * min(max(fc, 20), 0.45 * sr) / sr))
    u = sample - 4 * min(max(resonance, 0), 0.99) * y
    for k in range(4):
      s[k] = (1 - a) * u + a * s[k]
      u = math.tanh(s[k])
    y = u
    out.append(y)
  return np.array(out)


@pytest.mark.parametrize("moving", [False, True])
def test_ladder_is_a_plain_loop_in_numpy_and_in_jax(moving, monkeypatch):
  monkeypatch.setattr(ladder, "_UNROLL", 2)  # compiles faster
  rng = np.random.default_rng(0)
  x = rng.uniform(-1, 1, (5, 200))
  cutoff, resonance = np.array([5, 100, 800, 3000, 9000.0]), np.array([-1, 0, 0.5, 0.9, 2])
  if moving:
    cutoff = cutoff[:, None] * 2 ** np.linspace(0, 3, 200)
  got = ladder.moog(x, cutoff, resonance, SR)
  want = [plain_moog(*row, SR) for row in zip(x, cutoff, resonance, strict=True)]
  np.testing.assert_allclose(got, want, atol=1e-12)
  single = [jnp.asarray(v, jnp.float32) for v in (x, cutoff, resonance)]
  run = lambda *p: ladder.moog(*p, SR)
  if moving:
    np.testing.assert_allclose(jax.jit(run)(*single), want, atol=5e-5)
    return
  loud = lambda *p: (lambda y: (jnp.sum(y**2), y))(run(*p))
  (_, got), slope = jax.jit(jax.value_and_grad(loud, 1, has_aux=True))(*single)
  np.testing.assert_allclose(got, want, atol=1e-5)
  step = np.array([0, 0, 0.01, 0, 0])
  far = [np.sum(run(x, cutoff + k * step, resonance)[2] ** 2) for k in (-1, 1)]
  assert slope[2] == pytest.approx((far[1] - far[0]) / 0.02, rel=1e-3)


def test_ladder_refuses_other_shapes():
  x = np.zeros((3, 10))
  with pytest.raises(ValueError, match=r"cutoff of shape \(2,\)"):
    ladder.moog(x, np.zeros(2), 0.0, SR)
  with pytest.raises(ValueError, match=r"resonance of shape \(3, 10\)"):
    ladder.moog(x, 100.0, x, SR)
  with pytest.raises(ValueError, match=r"expected x \[B,T\]"):
    ladder.moog(x[0], 100.0, 0.0, SR)


def draws(voice, count):
  """Varied values of all parameters of a voice that change its sound."""
  rng = np.random.default_rng(1)
  ranges = dict(
    simple=dict(note_number=(36, 60), filter_cutoff=(80, 400), filter_resonance=(0.3, 0.85),
                filter_env_attack=(0, 0.3), filter_env_decay=(0.1, 1.5), filter_enabled=(1, 1),
                filter_env_sustain=(0, 0.6), filter_env_release=(0, 1), filter_env_amount=(1, 4)),
    fm=dict(note_number=(45, 69), fm_ratio=(0.5, 4), fm_index=(0, 8)),
    additive=dict(note_number=(20, 100), rolloff_db=(0, 18), even_level=(0, 1)),
    pluck=dict(note_number=(36, 72), brightness=(0, 1), excitation_seed=(0, 9)),
  )[voice]  # fmt: skip
  ranges |= dict(note_velocity=(1, 127), log10_decay_time=(-1, 0.3))
  return {k: rng.uniform(*v, count).round(1 if "seed" not in k else 0) for k, v in ranges.items()}


@pytest.mark.parametrize("voice", voices.VOICES)
def test_a_sound_is_its_own_and_its_beginning_is_the_same(voice):
  values = draws(voice, 9)
  whole = voices.render(voice, values, SR, 0.5)
  assert whole.shape == (9, 4000) and whole.dtype == np.float64 and np.isfinite(whole).all()
  assert np.abs(whole).max() <= 1.0 + 1e-9 and (np.abs(whole).max(axis=1) > 1e-3).all()
  part = voices.render(voice, {k: v[4:6] for k, v in values.items()}, SR, 0.5, 700)
  np.testing.assert_array_equal(part, whole[4:6, :700])
  mixed = voices.render(voice, {k: float(v[4]) if i else v[4:5] for i, (k, v) in
                                enumerate(values.items())}, SR, 0.5)  # fmt: skip
  np.testing.assert_allclose(mixed[0], whole[4], rtol=0, atol=1e-12)
  half = voices.render(voice, values | {"note_velocity": values["note_velocity"] / 2}, SR, 0.5)
  if voice != "simple":  # its filter is not linear
    np.testing.assert_allclose(half, whole / 2, atol=1e-12)


@pytest.mark.parametrize("voice", ["fm", "additive", "pluck"])
def test_jax_renders_the_same(voice, monkeypatch):
  monkeypatch.setattr(voices, "PARTIALS", 12)
  values = draws(voice, 4)
  seed = values.pop("excitation_seed", np.zeros(1))[0]
  values["note_number"] = np.clip(values["note_number"], 40, 60)
  fixed = dict(excitation_seed=float(seed)) if voice == "pluck" else {}
  want = voices.render(voice, values | fixed, SR, 0.25)
  single = {k: jnp.asarray(v, jnp.float32) for k, v in values.items()}
  run = lambda v: voices.render(voice, {**v, **fixed}, SR, 0.25)
  np.testing.assert_allclose(jax.jit(run)(single), want, atol=2e-3)


def test_strings_have_gradients():
  def loud(note, tau):  # where the loop cannot average, and where it may
    values = dict(note_number=note, log10_decay_time=tau, brightness=0.5)
    return jnp.sum(voices.render("pluck", values, SR, 0.05) ** 2)

  slopes = jax.jit(jax.grad(loud, (0, 1)))(jnp.array([40.0, 70.0]), jnp.array([-1.0, 0.3]))
  assert np.isfinite(slopes).all() and (np.abs(slopes) > 0).all()


def test_filter_is_put_in_where_it_is_enabled():
  values = dict(note_number=np.full(2, 50.0), filter_enabled=np.array([0.0, 1.0]))
  dry, wet = voices.render("simple", values, SR, 0.1)
  plain = voices.render("simple", dict(note_number=np.array([50.0])), SR, 0.1)
  np.testing.assert_array_equal(dry, plain[0])
  np.testing.assert_allclose(wet, plain_moog(dry, 1000, 0, SR), atol=1e-12)


def test_cutoff_follows_its_envelope_in_octaves():
  values = dict(filter_env_attack=0.05, filter_env_decay=0.03, filter_env_sustain=0.2,
                filter_env_release=0.1, filter_env_amount=2.5, filter_cutoff=150.0,
                filter_resonance=0.6, filter_enabled=1.0)  # fmt: skip
  got = voices.render("simple", values | dict(note_number=np.array([45.0])), SR, 0.2)
  dry = voices.render("simple", dict(note_number=np.array([45.0])), SR, 0.2)
  cutoff = 150 * 2 ** (2.5 * plain_adsr(1600, 0.05, 0.03, 0.2, 0.1, SR))
  np.testing.assert_allclose(got[0], plain_moog(dry[0], cutoff, 0.6, SR), atol=1e-10)


def lines(wav):
  """Amplitudes of the spectrum of one second."""
  return np.abs(np.fft.rfft(wav)) / len(wav) * 2


def test_fm_has_the_lines_of_bessel():
  from scipy.special import jv

  note = 69 + 12 * math.log2(500 / 440)
  values = dict(note_number=np.array([note]), note_velocity=127.0, log10_decay_time=9.0,
                fm_ratio=1.2, fm_index=1.5, log10_index_decay_time=9.0)  # fmt: skip
  got = lines(voices.render("fm", values, SR, 1.0)[0])
  above = [500 + 600 * k for k in range(6)]
  np.testing.assert_allclose(got[above], [abs(jv(k, 1.5)) for k in range(6)], atol=1e-4)
  below = [abs(500 - 600 * k) for k in range(1, 6)]
  np.testing.assert_allclose(got[below], [abs(jv(k, 1.5)) for k in range(1, 6)], atol=1e-4)
  quiet = voices.render("fm", values | dict(log10_index_decay_time=-2.0), SR, 1.0)[0, SR // 2 :]
  assert lines(quiet)[250] > 0.999  # the index has died away: a sine


def test_additive_has_its_harmonics_and_no_others():
  note = 69 + 12 * math.log2(300 / 440)
  values = dict(note_number=np.array([note]), note_velocity=127.0, log10_decay_time=9.0,
                rolloff_db=12.0, even_level=0.25)  # fmt: skip
  got = lines(voices.render("additive", values, SR, 1.0)[0])
  k = np.arange(1, 14)  # up to 3900 Hz
  want = np.zeros(len(got))
  # 12 dB an octave is (nearly) 1/k^2
  want[300 * k] = 10 ** (-12 / 20 * np.log2(k)) * np.where(k % 2, 1, 0.25)
  np.testing.assert_allclose(got, want / want.sum(), atol=1e-6)


def test_plucked_strings_are_those_of_synth():
  values = dict(note_number=np.array([45.0, 63.3]), note_velocity=127.0, brightness=1.0,
                log10_decay_time=np.array([-0.5, 0.1]), excitation_seed=3.0)  # fmt: skip
  got = voices.render("pluck", values, SR, 1.0)
  for row, note, tau in zip(got, (45.0, 63.3), 10 ** np.array([-0.5, 0.1]), strict=True):
    hz = 440 * 2 ** ((note - 69) / 12)
    burst = np.random.default_rng(3).uniform(-1, 1, SR // 20)[: int(SR / hz)]
    burst -= burst.mean()
    # A longer one: its last samples carry what wraps around in the DFT.
    want = synth.pluck(burst / np.abs(burst).max(), 4 * SR, hz, tau, SR)[:SR]
    np.testing.assert_allclose(row, want, atol=2e-4)
    # In tune: the strongest line lies at the fundamental or one of its multiples.
    peak = np.argmax(lines(row)) / hz
    assert abs(peak - round(peak)) < 0.02 * round(peak)
  other = voices.render("pluck", values | dict(excitation_seed=4.0), SR, 1.0)
  assert np.abs(other - got).max() > 0.1
  with pytest.raises(ValueError, match="notes of 20 to 4000 Hz"):
    voices.render("pluck", dict(note_number=np.array([5.0])), SR, 1.0)


@pytest.mark.parametrize("voice", ["fm", "additive", "pluck"])
def test_sounds_fall_to_one_over_e(voice):
  values = dict(note_number=np.array([57.0]), log10_decay_time=-0.7, brightness=0.0)
  if voice != "pluck":
    del values["brightness"]
  if voice == "fm":
    values["fm_index"] = 0.0
  wav = voices.render(voice, values, SR, 1.0)[0]
  # The fundamental at 220 Hz in two windows a fifth of a second apart.
  size = 800
  tone = np.exp(-2j * np.pi * 220 / SR * np.arange(size)) * np.hanning(size)
  early, late = (abs(tone @ wav[i : i + size]) for i in (1600, 3200))
  assert early / late == pytest.approx(np.exp(0.2 / 10**-0.7), rel=0.02)


def test_errors_name_the_nearest():
  values = dict(note_number=np.array([60.0]))
  with pytest.raises(ValueError, match="Did you mean 'additive'"):
    voices.render("aditive", values, SR, 1.0)
  with pytest.raises(ValueError, match="Did you mean 'filter_cutoff'"):
    voices.render("simple", values | dict(filter_cuttoff=1.0), SR, 1.0)
  with pytest.raises(ValueError, match="arrays \\[B\\] of one length"):
    voices.render("simple", values | dict(note_velocity=np.zeros(2)), SR, 1.0)
  with pytest.raises(ValueError, match="got none"):
    voices.render("simple", dict(note_number=60.0), SR, 1.0)
  with pytest.raises(ValueError, match="9000 samples of a sound that has 8000"):
    voices.render("simple", values, SR, 1.0, 9000)
