"""The integer prior and the range coder against the float model and Shannon's bound."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_audio.models import code_prior
from big_audio.nn.quantize import join_symbols, split_codes
from proj.meanflow_codec import bitstream, entropy
from tests.proj.meanflow_codec.test_damage import reseal

GROUPS = ((4, 4, 4), (4, 2), (3,))
GOLDEN = "a27f2296b7a829f1ebc8e3ec04d535c800000000"
SIZES = tuple(n for g in GROUPS for n in g)


def make(scale=0.05, seed=0, groups=GROUPS):
  model = code_prior.Model(sizes=SIZES, units=6)
  params = model.init(jax.random.key(seed), jnp.zeros((1, 1, len(SIZES), 4)))["params"]
  keys = iter(jax.random.split(jax.random.key(seed + 1), 99))
  params = jax.tree.map(lambda x: x + scale * jax.random.normal(next(keys), x.shape), params)
  return model, params, entropy.IntegerPrior(params, groups)


def codes_of(frames, seed=0):
  rng = np.random.default_rng(seed)
  return np.stack([rng.integers(0, math.prod(g), frames) for g in GROUPS], 1).astype(np.int32)


def test_symbols_and_codes():
  codes = codes_of(50)
  symbols = split_codes(codes, GROUPS)
  assert symbols.shape == (50, 6) and (symbols < np.array(SIZES)).all()
  np.testing.assert_array_equal(join_symbols(symbols, GROUPS), codes)
  assert split_codes(np.array([[27]]), ((4, 4, 4),)).tolist() == [[3, 2, 1]]


def test_integer_frequencies_are_the_models_probabilities():
  model, params, prior = make(0.3)
  symbols = split_codes(codes_of(40), GROUPS)
  freq = prior.frequencies(symbols)
  assert (freq.sum(-1) == entropy.TOTAL).all() and freq.dtype == np.int64
  assert (freq[:, 4, 2:] == 0).all() and (freq[:, 5, 3:] == 0).all() and (freq[:, :4] > 0).all()
  hot = jax.nn.one_hot(symbols[None], 4)
  bits = np.asarray(model.apply({"params": params}, hot))[0]
  got = -np.log2(np.take_along_axis(freq, symbols[..., None], -1)[..., 0] / entropy.TOTAL)
  assert bits.std() > 0.3
  np.testing.assert_allclose(got, bits, atol=0.05)


def test_no_symbol_sees_itself_or_what_follows():
  _, _, prior = make(0.3)
  symbols = split_codes(codes_of(10), GROUPS)
  freq = prior.frequencies(symbols)
  other = symbols.copy()
  other[4, 2] = (other[4, 2] + 1) % 4
  changed = (prior.frequencies(other) != freq).any(-1)
  assert not changed[:4].any() and not changed[4, :3].any() and not changed[7:].any()
  assert changed[4, 3:].any() and changed[5].any() and changed[6].any()


@pytest.mark.parametrize("frames", [1, 2, 300])
def test_round_trip_near_the_bound(frames):
  _, _, prior = make(0.3)
  coder, codes = entropy.Coder(prior), codes_of(frames)
  data = coder.encode(codes)
  np.testing.assert_array_equal(coder.decode(data, frames), codes)
  assert prior.bits(codes) - 1 <= len(data) * 8 <= prior.bits(codes) + 64
  with pytest.raises(ValueError, match="whole words"):
    coder.decode(data[:-1], frames)


def test_a_fitting_prior_saves_what_shannon_says():
  """Symbols that repeat with probability .9: the rate is that of the chain's entropy."""
  _, params, _ = make(0.0)
  params["out_in"] = params["out_in"].at[1].set(0)
  stay = 0.9
  for i, n in enumerate(SIZES):
    for k in range(n):
      params["out_in"] = params["out_in"].at[1, i, k, i, k].set(np.log(stay / (1 - stay) * (n - 1)))
  rng, frames = np.random.default_rng(1), 2000
  symbols = np.zeros((frames, len(SIZES)), np.int32)
  for f in range(1, frames):
    move = rng.integers(1, np.maximum(SIZES, 2)) * (rng.random(len(SIZES)) > stay)
    symbols[f] = (symbols[f - 1] + move) % SIZES
  bound = sum(-stay * np.log2(stay) - (1 - stay) * np.log2((1 - stay) / (n - 1)) for n in SIZES)
  prior = entropy.IntegerPrior(params, GROUPS)
  data = entropy.Coder(prior).encode(join_symbols(symbols, GROUPS))
  assert len(data) * 8 / frames == pytest.approx(bound, rel=0.03)


@pytest.mark.parametrize("frames", [1, 3])
def test_long_contexts_and_short_blocks(frames):
  model = code_prior.Model(sizes=SIZES, units=3, context=5)
  params = model.init(jax.random.key(0), jnp.zeros((1, 1, len(SIZES), 4)))["params"]
  coder = entropy.Coder(entropy.IntegerPrior(params, GROUPS))
  codes = codes_of(frames)
  np.testing.assert_array_equal(coder.decode(coder.encode(codes), frames), codes)


def test_bytes_of_range_coding_never_change():
  """Golden bytes: another version of the coder that writes others could not read old files."""
  _, params, _ = make(0.0)
  ramp = lambda x: np.linspace(-0.5, 0.5, x.size).reshape(x.shape)
  prior = entropy.IntegerPrior({k: ramp(np.asarray(v)) for k, v in params.items()}, GROUPS)
  data = entropy.Coder(prior).encode(codes_of(12))
  assert data.hex() == GOLDEN


def test_the_exponential_is_exact_and_not_libms():
  table = entropy.exp_table()
  np.testing.assert_allclose(table, np.exp(-np.arange(len(table)) / 256) * 2**20, atol=0.51)
  assert table[0] == 1 << 20 and table.dtype == np.int64


@pytest.mark.parametrize("frames", [0, 1, 4097])
def test_files_in_blocks(frames):
  _, _, prior = make(0.0)
  coder = entropy.Coder(prior)
  header = bitstream.Header(8000, 1, 160, GROUPS, bytes(16), 0, frames * 160, range_coded=True)
  codes = codes_of(frames)
  data = bitstream.dumps(codes, header, coder)
  np.testing.assert_array_equal(bitstream.loads(data, coder)[1], codes)


def test_a_small_file_cannot_claim_many_frames():
  _, _, prior = make(0.0)
  coder, frames = entropy.Coder(prior), 4096 * 100
  header = bitstream.Header(8000, 1, 160, GROUPS, bytes(16), 0, 160, range_coded=True)
  data = bytearray(bitstream.dumps(codes_of(1), header, coder))
  data[32:40] = (frames * 160).to_bytes(8, "little")
  data[40:48] = frames.to_bytes(8, "little")
  head = int.from_bytes(data[16:20], "little")
  payload = bytes(4 * 100)  # a hundred empty blocks
  data = data[:72] + len(payload).to_bytes(8, "little") + data[80:head] + payload
  with pytest.raises(bitstream.BitstreamError, match="payload bytes at byte 72"):
    bitstream.Reader(reseal(bytes(data)), coder)


def test_another_coder_is_refused():
  _, params, prior = make(0.0)
  header = bitstream.Header(8000, 1, 160, GROUPS, bytes(16), 0, 160, range_coded=True)
  data = bitstream.dumps(codes_of(1), header, entropy.Coder(prior))
  other = entropy.Coder(entropy.IntegerPrior(params, GROUPS[:1]))
  with pytest.raises(bitstream.BitstreamError, match="the coder is one for"):
    bitstream.Reader(data, other).read()
