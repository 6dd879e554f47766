"""Windows, chunks and whole recordings agree; codec files of real recordings."""

import jax
import numpy as np
import pytest
import soundfile

from big_audio import config as C
from big_audio.inference import Runner
from big_audio.nn.rvq import normalise
from proj.meanflow_codec import bitstream, codec, windows

SR = 8000


def make_runner(seed=0, method="imf", domain="magnitude", change=lambda config: None, arg=""):
  """A codec with random parameters (the refiner's head too), as a trained one would be used."""
  config = C.load(f"configs/meanflow.py:smoke,method={method},domain={domain}{arg}")
  with config.unlocked():
    change(config)
  config = C.canonical(config)
  trainer = C.resolve("trainers", "autoencode").Trainer(config, C.build_models(config))
  rng = np.random.default_rng(seed)
  shape = (2, 4800, config.models.codec.channels)
  batch = {"wav": (0.1 * rng.standard_normal(shape)).astype(np.float32)}
  variables = jax.jit(trainer.init)(jax.random.key(seed), batch, trainer.stats([batch]))
  params = variables.pop("params")
  if "refiner" in params:
    head = params["refiner"]["head"]
    head["kernel"] = 0.02 * jax.random.normal(jax.random.key(1), head["kernel"].shape)
  state = jax.tree.map(np.asarray, {"params": params, "vars": variables, "ema": {}})
  return Runner("nowhere", config, trainer, 0, state, True)


def clear(runner, lat, far=1e-4):
  """bool[..., F]: tokens whose latent is further than `far` from every decision boundary.

  Rounding of differently shaped programs moves latents by about 1e-6: these codes may not differ.
  Boundaries of learned codebooks are those between the two nearest codes, where they are looked up.
  """

  def fsq(model, z):
    return (model.quant.codes(z + far) == model.quant.codes(z - far)).all(-1)

  def rvq(model, z):
    quant, out = model.quant, True
    for down, up, book in zip(quant.down, quant.up, quant.books, strict=True):
      low, table = normalise(down(z)), book.table()
      near = np.argsort(-np.asarray(low @ table.T), axis=-1)
      a, b = table[near[..., 0]], table[near[..., 1]]
      out &= ((a - b) * low).sum(-1) / np.linalg.norm(a - b, axis=-1) > far
      z = z - up(a)
    return out

  name = runner.trainer.codec.quantizer.get("name", "fsq")
  method = {"fsq": fsq, "rvq": rvq}[name]
  return np.asarray(runner.trainer._codec(runner.variables, lat, method=method))


@pytest.fixture(scope="module")
def runner():
  return make_runner()


@pytest.fixture(scope="module")
def wide(runner):
  return windows.WindowCodec(runner)


@pytest.fixture(scope="module")
def wav():
  """23 s and a bit: three windows, an odd length, a quiet and a loud half."""
  rng = np.random.default_rng(1)
  n = 23 * SR + 77
  x = 0.2 * np.sin(np.cumsum(rng.uniform(0.05, 0.6, n)))
  x *= np.where(np.arange(n) < n // 2, 0.1, 1.0)
  return (x + 0.02 * rng.standard_normal(n)).astype(np.float32)[:, None]


def test_a_window_agrees_with_the_whole_recording(runner, wide, wav):
  """<= 1e-5 before the quantiser, equal codes off its boundaries; where windows meet, too."""
  one = windows.whole(runner, wav)
  codes = wide.encode(wav)
  assert codes.shape == one["codes"].shape == (len(wav) // wide.hop + 1, 3)
  sure = clear(runner, one["lat"])
  assert sure.mean() > 0.98
  np.testing.assert_array_equal(codes[sure], one["codes"][sure])
  side, core = wide.context()[0], wide.core()
  begin = (core - side) * wide.hop  # the second window
  piece = wav[begin : begin + windows.WINDOW * wide.hop]
  mask = np.ones((1, windows.WINDOW), bool)
  lat = np.asarray(runner.predict("encode", {"wav": piece[None], "mask": mask})["lat"])[0]
  inner = slice(core, 2 * core)
  np.testing.assert_allclose(lat[side:-side], one["lat"][inner], atol=1e-5)
  assert np.abs(lat[:3] - one["lat"][core - side : core - side + 3]).max() > 1e-3  # context matters


@pytest.mark.parametrize("nfe", [0, 1, 3])
def test_decoding_in_windows_agrees_with_one_pass(runner, wide, wav, nfe):
  codes = wide.encode(wav)
  out = wide.decode(codes, len(wav), nfe=nfe, seed=5)
  assert out.shape == wav.shape
  f = len(codes)
  batch = {
    "codes": codes[None], "mask": np.ones((1, f), bool),
    "token": np.arange(f, dtype=np.int32)[None], "seed": np.asarray([5], np.uint32),
  }  # fmt: skip
  one = np.asarray(runner.predict("decode", batch, nfe=nfe)["wav"])[0, : len(wav)]
  np.testing.assert_allclose(out, one, atol=2e-5 * max(1.0, np.abs(one).max()))


def test_chunks_and_batches_are_bit_equal(wide, wav):
  """However the recording is handed over and whatever else is coded in between."""
  codes = wide.encode(wav)
  blocks = []
  for block in wide.encode_stream(lambda s, n: wav[s : s + n], len(wav)):
    wide.encode(wav[:4000])
    blocks.append(block)
  np.testing.assert_array_equal(np.concatenate(blocks), codes)
  out = wide.decode(codes, len(wav), seed=3)
  again = np.concatenate(list(wide.decode_stream(lambda s, n: codes[s : s + n], len(wav), seed=3)))
  np.testing.assert_array_equal(again, out)
  # another seed changes the refiner's noise, and only that
  assert np.abs(wide.decode(codes, len(wav), seed=4) - out).max() > 1e-4
  np.testing.assert_array_equal(
    wide.decode(codes, len(wav), nfe=0, seed=3), wide.decode(codes, len(wav), nfe=0, seed=4)
  )


@pytest.mark.parametrize("samples", [0, 1, 159, 160, 161, 4000])
def test_any_length(wide, wav, samples):
  codes = wide.encode(wav[:samples])
  assert codes.shape == (-(-samples // wide.hop), 3)
  assert wide.decode(codes, samples).shape == (samples, 1)


@pytest.mark.parametrize("domain", ["mdct", pytest.param("stft", marks=pytest.mark.slow)])
def test_other_domains_agree_too(domain, wav):
  runner = make_runner(domain=domain)
  wide = windows.WindowCodec(runner)
  short = wav[: 14 * SR]
  codes = wide.encode(short)
  out = wide.decode(codes, len(short), nfe=2, seed=5)
  f = len(codes)
  batch = {
    "codes": codes[None], "mask": np.ones((1, f), bool),
    "token": np.arange(f, dtype=np.int32)[None], "seed": np.asarray([5], np.uint32),
  }  # fmt: skip
  one = np.asarray(runner.predict("decode", batch, nfe=2)["wav"])[0, : len(short)]
  np.testing.assert_allclose(out, one, atol=2e-5 * max(1.0, np.abs(one).max()))


def test_bad_calls(wide, wav):
  codes = wide.encode(wav[:1600])
  with pytest.raises(ValueError, match=r"f32\[T, 1\]"):
    wide.encode(wav[:, 0])
  with pytest.raises(ValueError, match=r"\(10, 3\) for 1600 samples"):
    wide.decode(codes[:9], 1600)
  with pytest.raises(ValueError, match=r"\[0, \[1024, 1024, 1024\]\)"):
    wide.decode(codes + 1024, 1600)
  with pytest.raises(ValueError, match="a window has 512"):
    wide.decode(codes, 1600, nfe=200)
  with pytest.raises(ValueError, match="no refiner"):
    windows.WindowCodec(make_runner(method="ae")).decode(codes, 1600, nfe=1)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3"])
def test_files_of_every_format(tmp_path, wide, wav, suffix):
  source, coded, back = (str(tmp_path / n) for n in (f"in{suffix}", "a.bac", "out.wav"))
  soundfile.write(source, wav[:12345], SR)
  samples = soundfile.info(source).frames
  info = codec.encode_file(wide, source, coded, seed=9)
  assert info["samples"] == samples and info["noise_seed"] == 9
  assert info["payload_kbps"] == pytest.approx(1.5, rel=0.02)
  result = codec.decode_file(wide, coded, back)
  assert result["samples"] == soundfile.info(back).frames == samples
  again = str(tmp_path / "again.flac")
  codec.decode_file(wide, coded, again)
  np.testing.assert_array_equal(soundfile.read(back)[0], soundfile.read(again)[0])


def test_refusals_leave_nothing_behind(tmp_path, wide, wav):
  source, coded = str(tmp_path / "in.wav"), str(tmp_path / "a.bac")
  soundfile.write(source, np.repeat(wav[:9000], 2, axis=1), 16000)
  with pytest.raises(ValueError, match=r"16000 Hz and 2 channel.*8000 Hz and 1.*--resample"):
    codec.encode_file(wide, source, coded)
  assert not (tmp_path / "a.bac").exists()
  info = codec.encode_file(wide, source, coded, resample=True)
  assert info["samples"] == 4500
  other = windows.WindowCodec(make_runner(seed=1))
  with pytest.raises(ValueError, match="was made by the model"):
    codec.decode_file(other, coded, str(tmp_path / "out.wav"))
  with pytest.raises(ValueError, match=r"\.mp3"):
    codec.decode_file(wide, coded, str(tmp_path / "out.mp3"))
  data = bytearray((tmp_path / "a.bac").read_bytes())
  data[-3] ^= 4
  (tmp_path / "b.bac").write_bytes(data)
  with pytest.raises(bitstream.BitstreamError, match="CRC32"):
    codec.decode_file(wide, str(tmp_path / "b.bac"), str(tmp_path / "out.wav"))
  assert sorted(p.name for p in tmp_path.iterdir()) == ["a.bac", "b.bac", "in.wav"]


def test_command_line_errors_are_one_line(tmp_path, capsys):
  for argv, words in (
    (["info", str(tmp_path / "no.bac")], "no.bac"),
    (["encode", "--workdir", str(tmp_path), "a.wav", "b.bac"], "config.json"),
  ):
    with pytest.raises(SystemExit) as e:
      codec.main(argv)
    assert words in str(e.value) and "\n" not in str(e.value)
