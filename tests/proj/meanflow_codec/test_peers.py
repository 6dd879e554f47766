"""What other codecs make of a recording, and how many bytes they are charged for."""

import shutil

import numpy as np
import pytest

from proj.meanflow_codec import peers

SR = 8000


def test_alignment_finds_the_lag():
  rng = np.random.default_rng(0)
  x = rng.standard_normal((4000, 1)).astype(np.float32)
  for lag in (0, 1, 300, -1, -300):
    late = np.concatenate([np.zeros((max(lag, 0), 1), np.float32), x])[max(-lag, 0) :]
    got = peers.align(late, x, SR)
    inner = slice(300, 3600)
    assert got.shape == x.shape
    np.testing.assert_array_equal(got[inner], x[inner])
  short = peers.align(x[:1000], x, SR)
  np.testing.assert_array_equal(short[:1000], x[:1000])
  assert not short[1000:].any()


def test_ogg_payload():
  """Two header packets, then one packet over two pages (255 + 45 bytes) and one of 3."""
  page = lambda lacing, body: (
    b"OggS" + bytes(22) + bytes([len(lacing)]) + bytes(lacing) + bytes(body)
  )
  data = page([19], 19) + page([16], 16) + page([255], 255) + page([45, 3], 48)
  assert peers.ogg_payload(data) == 303
  assert peers.ogg_payload(data, 1) == 300
  with pytest.raises(ValueError, match="page at byte"):
    peers.ogg_payload(data[:47] + b"x" + data[48:])


@pytest.mark.parametrize("low, sr, size", [(0, 44100, 1152), (1, 22050, 576), (1, 8000, 576)])
def test_mp3_payload(low, sr, size):
  """Frames of 128 kbps (index 9) and 64 kbps (index 8), the second with a byte of padding."""
  kbps = 64 if low else 128
  frame = lambda pad: (
    bytes([0xFF, 0xFB, (8 if low else 9) << 4 | pad << 1, 0])
    + bytes(size * kbps * 125 // sr + pad - 4)
  )
  data = frame(0) + frame(1) + frame(0)
  assert [peers.mp3_payload(data, sr, n) for n in (0, 1, size, size + 1)] == [
    0, len(frame(0)), len(frame(0)), len(frame(0) + frame(1)),
  ]  # fmt: skip
  with pytest.raises(ValueError, match="expected frame 1 at byte"):
    peers.mp3_payload(data[: len(frame(0))] + data[-99:], sr, 3 * size)


def tone(secs):
  t = np.arange(round(secs * SR)) / SR
  return (0.3 * np.sin(2 * np.pi * 200 * t + 3 * np.sin(2 * np.pi * 3 * t))).astype(np.float32)[
    :, None
  ]


def peer(spec):
  programs = dict(codec2="c2enc", opus="opusenc", mp3="lame")
  if not shutil.which(programs[spec.partition(":")[0]]):
    pytest.skip(f"{spec} is not installed")
  return peers.make(spec)


@pytest.mark.parametrize(
  "spec, kbps, rel",
  [("codec2:3200", 3.2, 0.001), ("codec2:1300", 1.3, 0.001), ("codec2:700C", 0.7, 0.001),
   ("opus:8", 8.0, 0.7), ("mp3:16", 16.0, 0.01)],
)  # fmt: skip
def test_other_codecs(spec, kbps, rel):
  """Codec 2 and MP3 have a constant rate; Opus spends less than it may on one tone."""
  wav = tone(4)
  out = peer(spec)(wav, SR)
  assert out.wav.shape == wav.shape
  assert out.payload * 8e-3 / 4 == pytest.approx(kbps, rel=rel) and out.file >= out.payload
  assert out.encode_secs > 0 and 0.01 < out.wav.std() / wav.std() < 5


@pytest.mark.parametrize("samples, frames", [(1, 1), (320, 1), (321, 2), (640, 2)])
def test_codec2_is_charged_for_the_frames_of_the_recording(samples, frames):
  out = peer("codec2:1300")(tone(1)[:samples], SR)
  assert out.payload == -(-frames * 52 // 8) and out.file == 7 + 7 * frames


@pytest.mark.parametrize("secs", [0.5, 1.0])
def test_opus_is_charged_for_the_packets_of_the_recording(secs, monkeypatch):
  """It makes one more for its delay of 6.5 ms."""
  seen, real = [], peers.ogg_payload
  monkeypatch.setattr(peers, "ogg_payload", lambda *a: seen.append(a) or real(*a))
  out = peer("opus:12")(tone(secs), SR)
  data, packets = seen[0]
  assert packets == secs * 50
  last = real(data, packets + 1) - out.payload
  assert out.payload + last == real(data) and last > 0


@pytest.mark.parametrize(
  "spec, words", [("opuss:6", '"opus"'), ("opus", "RATE"), ("dac:/nowhere", "dac:/nowhere")]
)
def test_unknown_peers(spec, words):
  with pytest.raises(ValueError, match=words):
    peers.make(spec)


def test_an_unknown_rate_of_codec2_is_named_with_the_nearest():
  with pytest.raises(ValueError, match="no '320'.*\"3200\""):
    peers.make("codec2:320")


def test_frames_of_chunks():
  """EnCodec at 48 kHz: chunks of a second every .99 s, tokens of 320 samples."""
  chunk, stride = 48000, 47520
  assert peers.frames_of(48000 * 4, 320) == 600
  assert peers.frames_of(stride, 320, chunk, stride) == 149  # ceil(148.5)
  assert peers.frames_of(stride + 321, 320, chunk, stride) == 150 + 2


def saved_encodec(transformers, folder, **kw):
  config = transformers.EncodecConfig(
    num_filters=2, hidden_size=8, codebook_dim=8, codebook_size=16, upsampling_ratios=[4, 2],
    num_lstm_layers=1, **kw,
  )  # fmt: skip
  transformers.EncodecModel(config).save_pretrained(folder)
  transformers.EncodecFeatureExtractor(
    feature_size=config.audio_channels, sampling_rate=config.sampling_rate,
    chunk_length_s=config.chunk_length_s, overlap=config.overlap,
  ).save_pretrained(folder)  # fmt: skip
  return config


def test_encodec_in_chunks_is_charged_for_its_scales(tmp_path):
  """Two channels, chunks of 800 samples every 760, frames of 8: 4 bits a codebook."""
  pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  saved_encodec(
    transformers, tmp_path, sampling_rate=8000, audio_channels=2, normalize=True,
    chunk_length_s=0.1, overlap=0.05, target_bandwidths=[8.0, 16.0], norm_type="time_group_norm",
    use_causal_conv=False,
  )  # fmt: skip
  rng = np.random.default_rng(0)
  for samples, frames, chunks in [(760, 95, 1), (761, 96 + 1, 2), (2000, 100 + 100 + 60, 3)]:
    wav = (0.1 * rng.standard_normal((samples, 2))).astype(np.float32)
    for kbps, books in ((8, 2), (16, 4)):
      out = peers.make(f"encodec:{tmp_path}:{kbps}")(wav, 8000)
      assert out.wav.shape == wav.shape and np.isfinite(out.wav).all()
      assert out.payload == -(-frames * books * 4 // 8) + 4 * chunks
  with pytest.raises(ValueError, match="this model has 8, 16 kbps"):
    peers.make(f"encodec:{tmp_path}:6")


def test_encodec_in_one_piece_has_no_scales(tmp_path):
  pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  saved_encodec(transformers, tmp_path, sampling_rate=8000, target_bandwidths=[8.0])
  for spec in (f"encodec:{tmp_path}:8", f"encodec:{tmp_path}"):
    out = peers.make(spec)(tone(0.25), 8000)
    assert out.payload == 250 * 2 * 4 // 8 and out.wav.shape == (2000, 1)


def test_dac_takes_a_number_of_codebooks(tmp_path):
  pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  config = transformers.DacConfig(
    encoder_hidden_size=2, downsampling_ratios=[2, 4], decoder_hidden_size=8, n_codebooks=3,
    codebook_size=16, codebook_dim=2, sampling_rate=8000,
  )  # fmt: skip
  transformers.DacModel(config).save_pretrained(tmp_path)
  transformers.DacFeatureExtractor(sampling_rate=8000, hop_length=8).save_pretrained(tmp_path)
  wav = tone(0.25)[:-3]
  for spec, books in ((f"dac:{tmp_path}:1", 1), (f"dac:{tmp_path}:2", 2), (f"dac:{tmp_path}", 3)):
    out = peers.make(spec)(wav, 8000)
    assert out.payload == 250 * books * 4 // 8 and out.wav.shape == wav.shape
  for wrong in ("4", "0", "1.5"):
    with pytest.raises(ValueError, match="1 to 3 codebooks"):
      peers.make(f"dac:{tmp_path}:{wrong}")
