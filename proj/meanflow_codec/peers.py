"""Other codecs, as programs or packages, on the recordings that ours is measured on.

  codec2:3200          Codec 2 (Debian: codec2), 8 kHz speech; 3200 2400 1600 1400 1300 1200 700C
  opus:6  opus:12.5    Opus set to so many kbps (Debian: opus-tools)
  mp3:32               MP3 at a constant rate (Debian: lame)
  encodec:DIR:6        EnCodec by transformers, weights in DIR, kbps (none: its lowest)
  dac:DIR:7            DAC by transformers, weights in DIR, codebooks (none: all)

Payload is what a packet network would carry: without container, page or file headers, and only as
many frames as the recording fills; those that do nothing but flush a codec's delay are left out, as
in a long recording they would not count. With the codes go the scales of EnCodec at 48 kHz, 4 bytes
a chunk as in its own files. Times of programs include their start.
"""

import dataclasses
import math
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from big_audio import config as C

MAX_LAG_SECS = 0.1
# Samples at 8 kHz and bits of a frame; files round each frame up to bytes.
CODEC2 = {
  "3200": (160, 64), "2400": (160, 48), "1600": (320, 64), "1400": (320, 56), "1300": (320, 52),
  "1200": (320, 48), "700C": (320, 28),
}  # fmt: skip
OPUS_FRAME_SECS = 0.02
# kbps by the index in a frame's head: MPEG 1, and 2 and 2.5 (rates below 32 kHz).
MP3_KBPS = (
  (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
  (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
)
SCALE_BYTES = 4


@dataclasses.dataclass(frozen=True)
class Coded:
  """One recording, coded and decoded.

  wav: f32[T, C], aligned with the original and of its length.
  payload, file: bytes.
  encode_secs, decode_secs: wall clock.
  """

  wav: np.ndarray
  payload: int
  file: int
  encode_secs: float
  decode_secs: float


def align(estimate: np.ndarray, reference: np.ndarray, sr: int) -> np.ndarray:
  """Shifts f32[T', C] by the lag of its cross-correlation with the reference f32[T, C].

  Lags up to `MAX_LAG_SECS` are searched; the result has the reference's length, zeros where the
  estimate ends.
  """
  most = round(MAX_LAG_SECS * sr)
  size = 1 << (len(reference) + len(estimate) - 1).bit_length()
  a, b = (np.fft.rfft(x.mean(1).astype(np.float64), size) for x in (estimate, reference))
  correlation = np.fft.irfft(a * np.conj(b), size)
  lags = np.concatenate([np.arange(most + 1), np.arange(-most, 0)])
  lag = int(lags[np.argmax(correlation[lags])])
  out = np.zeros_like(reference)
  src = estimate[max(0, lag) :][: len(reference) - max(0, -lag)]
  out[max(0, -lag) :][: len(src)] = src
  return out


def ogg_payload(data: bytes, packets: int | None = None) -> int:
  """Bytes of the first so many audio packets (None: all) of an Ogg Opus file, headers aside.

  Raises:
    ValueError: the pages are damaged.
  """
  at, packet, sizes = 0, 0, []
  while at < len(data):
    if data[at : at + 4] != b"OggS" or at + 27 > len(data):
      raise ValueError(f"Ogg: expected a page at byte {at}.")
    segments = data[at + 27 : at + 27 + data[at + 26]]
    for n in segments:
      packet += n
      if n < 255:
        sizes.append(packet)
        packet = 0
    at += 27 + len(segments) + sum(segments)
  return sum(sizes[2:][:packets])


def mp3_payload(data: bytes, sr: int, samples: int) -> int:
  """Bytes of the frames of an MP3 file that a recording of so many samples at sr Hz fills.

  Raises:
    ValueError: a frame does not begin where the one before ends.
  """
  low = sr < 32000
  size, at = 576 if low else 1152, 0
  for i in range(-(-samples // size)):
    head = int.from_bytes(data[at : at + 4], "big")
    index = head >> 12 & 15
    if head >> 21 != 0x7FF or not 1 <= index <= 14:
      raise ValueError(f"MP3: expected frame {i} at byte {at}, got {data[at : at + 4].hex()!r}.")
    at += size * MP3_KBPS[low][index - 1] * 1000 // (8 * sr) + (head >> 9 & 1)
  return at


def _run(*argv) -> float:
  """Wall-clock seconds of a program that has to succeed."""
  begin = time.perf_counter()
  done = subprocess.run([str(a) for a in argv], capture_output=True, check=False)
  if done.returncode:
    raise ValueError(f"{argv[0]} failed: {done.stderr.decode(errors='replace').strip()[-300:]}")
  return time.perf_counter() - begin


def _codec2(mode: str):
  frame, bits = C.pick("--peers codec2", CODEC2, mode)

  def code(wav, sr, folder):
    if sr != 8000 or wav.shape[1] != 1:
      raise ValueError(f"codec2: expected 8000 Hz mono, got {sr} Hz, {wav.shape[1]} channels.")
    raw, coded, out = folder / "in.raw", folder / "a.c2", folder / "out.raw"
    # It drops what does not fill its last frame (40 ms): pad, and align cuts again.
    _int16(np.pad(wav, ((0, 640), (0, 0)))).tofile(raw)
    encode = _run("c2enc", mode, raw, coded)
    decode = _run("c2dec", mode, coded, out)
    back = np.fromfile(out, "<i2").astype(np.float32)[:, None] / 32768
    frames = -(-len(wav) // frame)
    return back, -(-frames * bits // 8), 7 + frames * -(-bits // 8), encode, decode

  return code, ("c2enc", "c2dec")


def _opus(kbps: str):
  def code(wav, sr, folder):
    import soundfile

    source, coded, out = folder / "in.wav", folder / "a.opus", folder / "out.wav"
    soundfile.write(source, wav, sr, subtype="PCM_16")
    encode = _run(
      "opusenc", "--quiet", "--discard-comments", "--framesize", round(1000 * OPUS_FRAME_SECS),
      "--bitrate", kbps, source, coded,
    )  # fmt: skip
    decode = _run("opusdec", "--quiet", "--rate", sr, coded, out)
    data = coded.read_bytes()
    packets = math.ceil(len(wav) / (OPUS_FRAME_SECS * sr))
    return _read(out), ogg_payload(data, packets), len(data), encode, decode

  return code, ("opusenc", "opusdec")


def _mp3(kbps: str):
  def code(wav, sr, folder):
    import soundfile

    source, coded, out = folder / "in.wav", folder / "a.mp3", folder / "out.wav"
    soundfile.write(source, wav, sr, subtype="PCM_16")
    encode = _run(
      "lame", "--quiet", "--cbr", "-t", "-b", kbps, "--resample", sr / 1000, source, coded
    )
    decode = _run("lame", "--quiet", "--decode", coded, out)
    data = coded.read_bytes()
    return _read(out), mp3_payload(data, sr, len(wav)), len(data), encode, decode

  return code, ("lame",)


def frames_of(samples: int, hop: int, chunk: int | None = None, stride: int | None = None) -> int:
  """Frames that a recording fills, in one piece or in chunks that may overlap."""
  if chunk is None or stride is None:
    return -(-samples // hop)
  return sum(-(-min(chunk, samples - at) // hop) for at in range(0, samples, stride))


def _transformers(name: str, path: str, rate: str):
  import transformers

  kinds = {"encodec": "EncodecModel", "dac": "DacModel"}
  model = getattr(transformers, kinds[name]).from_pretrained(path, local_files_only=True).eval()
  model.requires_grad_(False)  # as users decode: nothing is kept for a gradient
  processor = transformers.AutoProcessor.from_pretrained(path, local_files_only=True)
  config, kw = model.config, {}
  if rate and name == "encodec":
    kw["bandwidth"] = float(rate)
    if kw["bandwidth"] not in config.target_bandwidths:
      known = ", ".join(f"{b:g}" for b in config.target_bandwidths)
      raise ValueError(f"--peers {name}:{path}:{rate}: this model has {known} kbps.")
  elif rate:
    kw["n_quantizers"] = int(float(rate))
    if float(rate) not in range(1, config.n_codebooks + 1):
      raise ValueError(
        f"--peers {name}:{path}:{rate}: this model has 1 to {config.n_codebooks} codebooks."
      )

  def code(wav, sr, folder):
    if sr != processor.sampling_rate or wav.shape[1] != processor.feature_size:
      raise ValueError(
        f"{name}: expected {processor.sampling_rate} Hz and {processor.feature_size} channel(s), "
        f"got {sr} Hz and {wav.shape[1]}."
      )
    one = wav[:, 0] if wav.shape[1] == 1 else wav.T
    x = processor(raw_audio=one, sampling_rate=sr, return_tensors="pt")
    begin = time.perf_counter()
    encoded = model.encode(x["input_values"], **kw)
    middle = time.perf_counter()
    codes, scales = encoded.audio_codes, 0  # codes [..., codebooks, frames]
    chunks = (None, None)
    if name == "encodec":
      pad = encoded.last_frame_pad_length
      out = model.decode(codes, encoded.audio_scales, last_frame_pad_length=pad)[0]
      chunks = (config.chunk_length, config.chunk_stride)
      if config.normalize:
        scales = -(-len(wav) // (chunks[1] or len(wav)))
    else:
      out = model.decode(audio_codes=codes)[0]
    end = time.perf_counter()
    back = out.detach().numpy().reshape(wav.shape[1], -1).T
    bits = codes.shape[-2] * (config.codebook_size - 1).bit_length()
    frames = frames_of(len(wav), config.hop_length, *chunks)
    size = -(-frames * bits // 8) + scales * SCALE_BYTES
    return back, size, size, middle - begin, end - middle

  return code, ()


def _int16(wav) -> np.ndarray:
  return np.clip(np.round(wav * 32768), -32768, 32767).astype("<i2")


def _read(path) -> np.ndarray:
  import soundfile

  return soundfile.read(path, dtype="float32", always_2d=True)[0]


def make(spec: str) -> Callable[[np.ndarray, int], Coded]:
  """The codec of "name:arguments" as a function (wav f32[T, C], sr) -> `Coded`.

  Raises:
    ValueError: an unknown name, a program that is not installed, or weights that cannot be read.
  """
  name, _, rest = spec.partition(":")
  C.pick("--peers", dict.fromkeys(("codec2", "opus", "mp3", "encodec", "dac")), name)
  if not rest:
    raise ValueError(f"--peers {spec}: expected {name}:RATE, or {name}:DIR for weights.")
  try:
    if name in ("encodec", "dac"):
      path, rate = re.fullmatch(r"(.*?)(?::(\d+(?:\.\d+)?))?", rest).groups(default="")
      code, programs = _transformers(name, path, rate)
    else:
      code, programs = {"codec2": _codec2, "opus": _opus, "mp3": _mp3}[name](rest)
  except (OSError, ImportError) as e:
    raise ValueError(f"--peers {spec}: {e}") from e
  for program in programs:
    if not shutil.which(program):
      raise ValueError(f"--peers {spec}: the program {program} is not installed.")

  def run(wav: np.ndarray, sr: int) -> Coded:
    with tempfile.TemporaryDirectory() as folder:
      back, payload, file, encode, decode = code(wav, sr, Path(folder))
    return Coded(align(back, wav, sr), payload, file, encode, decode)

  return run
