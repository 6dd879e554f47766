"""Other codecs, as programs or packages, on the recordings that ours is measured on.

  codec2:3200          Codec 2 (Debian: codec2), 8 kHz speech; 3200 2400 1600 1400 1300 1200 700C
  opus:6  opus:12.5    Opus set to so many kbps (Debian: opus-tools)
  mp3:32               MP3 at a constant rate (Debian: lame)
  encodec:DIR:6        EnCodec by transformers, weights in DIR, kbps
  dac:DIR              DAC by transformers, weights in DIR

Payload is what a packet network would carry: without container, page or file headers. Times of
programs include their start.
"""

import dataclasses
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from big_audio import config as C

MAX_LAG_SECS = 0.1


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


def ogg_payload(data: bytes) -> int:
  """Bytes of the audio packets of an Ogg Opus file: all packets but the two headers.

  Raises:
    ValueError: the pages are damaged.
  """
  at, packet, packets = 0, 0, []
  while at < len(data):
    if data[at : at + 4] != b"OggS" or at + 27 > len(data):
      raise ValueError(f"Ogg: expected a page at byte {at}.")
    segments = data[at + 27 : at + 27 + data[at + 26]]
    for n in segments:
      packet += n
      if n < 255:
        packets.append(packet)
        packet = 0
    at += 27 + len(segments) + sum(segments)
  return sum(packets[2:])


def _run(*argv) -> float:
  """Wall-clock seconds of a program that has to succeed."""
  begin = time.perf_counter()
  done = subprocess.run([str(a) for a in argv], capture_output=True, check=False)
  if done.returncode:
    raise ValueError(f"{argv[0]} failed: {done.stderr.decode(errors='replace').strip()[-300:]}")
  return time.perf_counter() - begin


def _codec2(mode: str):
  def code(wav, sr, folder):
    if sr != 8000 or wav.shape[1] != 1:
      raise ValueError(f"codec2: expected 8000 Hz mono, got {sr} Hz, {wav.shape[1]} channels.")
    raw, coded, out = folder / "in.raw", folder / "a.c2", folder / "out.raw"
    # It drops what does not fill its last frame (40 ms): pad, and align cuts again.
    _int16(np.pad(wav, ((0, 640), (0, 0)))).tofile(raw)
    encode = _run("c2enc", mode, raw, coded)
    decode = _run("c2dec", mode, coded, out)
    back = np.fromfile(out, "<i2").astype(np.float32)[:, None] / 32768
    return back, coded.stat().st_size - 7, coded.stat().st_size, encode, decode

  return code, ("c2enc", "c2dec")


def _opus(kbps: str):
  def code(wav, sr, folder):
    import soundfile

    source, coded, out = folder / "in.wav", folder / "a.opus", folder / "out.wav"
    soundfile.write(source, wav, sr, subtype="PCM_16")
    encode = _run("opusenc", "--quiet", "--discard-comments", "--bitrate", kbps, source, coded)
    decode = _run("opusdec", "--quiet", "--rate", sr, coded, out)
    data = coded.read_bytes()
    return _read(out), ogg_payload(data), len(data), encode, decode

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
    return _read(out), coded.stat().st_size, coded.stat().st_size, encode, decode

  return code, ("lame",)


def _transformers(name: str, path: str, kbps: float | None):
  import transformers

  kinds = {"encodec": "EncodecModel", "dac": "DacModel"}
  model = getattr(transformers, kinds[name]).from_pretrained(path, local_files_only=True).eval()
  model.requires_grad_(False)  # as users decode: nothing is kept for a gradient
  processor = transformers.AutoProcessor.from_pretrained(path, local_files_only=True)

  def code(wav, sr, folder):
    if sr != processor.sampling_rate or wav.shape[1] != processor.feature_size:
      raise ValueError(
        f"{name}: expected {processor.sampling_rate} Hz and {processor.feature_size} channel(s), "
        f"got {sr} Hz and {wav.shape[1]}."
      )
    mono = wav[:, 0] if wav.shape[1] == 1 else wav
    x = processor(raw_audio=mono, sampling_rate=sr, return_tensors="pt")
    kw = {} if kbps is None else {"bandwidth": kbps}
    begin = time.perf_counter()
    encoded = model.encode(x["input_values"], **kw)
    middle = time.perf_counter()
    codes = encoded.audio_codes
    if name == "encodec":
      out = model.decode(codes, encoded.audio_scales)[0]
    else:
      out = model.decode(audio_codes=codes)[0]
    end = time.perf_counter()
    back = out.detach().numpy().reshape(wav.shape[1], -1).T
    size = -(-codes.numel() * (model.config.codebook_size - 1).bit_length() // 8)
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
      path, _, rate = rest.rpartition(":") if name == "encodec" else (rest, "", "")
      code, programs = _transformers(name, path, float(rate) if rate else None)
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
