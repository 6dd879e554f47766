r"""Encodes recordings to bytes with a trained codec, and back.

  python -m proj.meanflow_codec.codec encode --workdir runs/codec in.flac out.bac --coding range
  python -m proj.meanflow_codec.codec decode --workdir runs/codec out.bac out.wav --nfe 1
  python -m proj.meanflow_codec.codec info out.bac
  arecord -f S16_LE -r 8000 | python -m proj.meanflow_codec.codec stream --workdir runs/codec \
    | aplay -f S16_LE -r 8000

Files are encoded and decoded in windows as long as fit. A stream uses short ones, and other windows
are another program, whose rounding differs in the last bits: with the --core of a stream, encode
and decode give its samples to the bit.

IN may be a folder; OUT is then one too. wav, flac, ogg, opus, mp3 are read (m4a with the extra).
"""

import argparse
import contextlib
import os
import sys

import numpy as np

from proj.meanflow_codec import bitstream, streams

SUFFIX = ".bac"
WRITES = {".wav": ("WAV", "PCM_16"), ".flac": ("FLAC", "PCM_16")}


def open_codec(workdir: str, **kw):
  """The `WindowCodec` of "workdir" or "workdir:step"; keywords are its own (core, groups)."""
  from big_audio.inference import open_workdir
  from proj.meanflow_codec.windows import WindowCodec

  return WindowCodec(open_workdir(workdir), **kw)


def header_of(codec, samples: int, *, seed: int = 0, coding: str = "packed") -> bitstream.Header:
  """The header of a file by this codec.

  Raises:
    ValueError: range coding without a prior.
  """
  if coding == "range" and codec.coder is None:
    raise ValueError("--coding range needs a run with config.models.prior; use packed.")
  return bitstream.Header(
    sample_rate=codec.sr, channels=codec.channels, hop=codec.hop, levels=codec.levels,
    model_hash=codec.model_hash, noise_seed=seed, samples=samples, range_coded=coding == "range",
  )  # fmt: skip


def at_rate(codec, kbps: float):
  """The codec with so many groups that its packed rate is `kbps`.

  Raises:
    ValueError: no number of groups has that rate (within 1 %).
  """
  if not kbps > 0:
    raise ValueError(f"--kbps must be positive, got {kbps:g}.")
  choices = [codec.with_groups(k) for k in codec.rates]
  for choice in choices:
    if abs(choice.kbps / kbps - 1) < 0.01:
      return choice
  rates = ", ".join(f"{c.kbps:g}" for c in choices)
  raise ValueError(f"--kbps {kbps:g}: this run was trained for {rates}.")


def encode_file(
  codec, source: str, target: str, *, resample: bool = False, seed: int = 0, coding: str = "packed"
) -> dict:
  """Encodes a recording into a codec file, in bounded memory.

  Args:
    codec: a `WindowCodec`.
    source: any recording that `datasets.audio` reads.
    target: the file to write; it appears only when it is complete.
    resample: convert another sampling rate, and mix down or copy channels.
    seed: of the decoder's noise.
    coding: "packed" (a constant rate) or "range" (shorter, by the run's prior).

  Returns:
    `bitstream.info` of the file.

  Raises:
    ValueError: another rate or number of channels without `resample`; a file that cannot be read;
      a target that is a recording.
  """
  from big_audio.datasets.audio import AV, SNDFILE, AudioFile

  if os.path.splitext(target)[1].lower() in SNDFILE | AV:
    raise ValueError(f'"{target}" is named like a recording; name codec files *{SUFFIX}.')
  if not 0 <= seed < 2**32:
    raise ValueError(f"--seed must lie in [0, 2^32), got {seed}.")
  recording = AudioFile.open(source)
  if (recording.sr, recording.channels) != (codec.sr, codec.channels):
    if not resample:
      raise ValueError(
        f'"{source}" has {recording.sr} Hz and {recording.channels} channel(s), the codec '
        f"{codec.sr} Hz and {codec.channels}. Use --resample, or a codec of that rate."
      )
    recording = AudioFile.open(source, sr=codec.sr, channels=codec.channels)
  header = header_of(codec, recording.shape[0], seed=seed, coding=coding)
  with bitstream.Writer(target, header, codec.coder if coding == "range" else None) as writer:
    for codes in codec.encode_stream(recording.read, recording.shape[0]):
      writer.write(codes)
  return bitstream.info(target)


def decode_file(codec, source: str, target: str, *, nfe: int = 1) -> dict:
  """Decodes a codec file into a .wav or .flac of exactly the recorded length.

  Returns:
    {"samples", "clipped": share of samples beyond full scale}.

  Raises:
    BitstreamError: the file is damaged.
    ValueError: it was made by another model, or the target cannot be written.
  """
  import soundfile

  suffix = os.path.splitext(target)[1].lower()
  if suffix not in WRITES:
    raise ValueError(f'"{target}": cannot write {suffix!r}; use {" or ".join(WRITES)}.')
  kind, subtype = WRITES[suffix]
  with bitstream.Reader(source, codec.coder) as reader:
    h = reader.header
    if h.model_hash != codec.model_hash:
      raise ValueError(
        f'"{source}" was made by the model {h.model_hash.hex()}, this one is '
        f"{codec.model_hash.hex()}. Decode it with the workdir (and step) that encoded it."
      )
    mine = dict(sample_rate=codec.sr, channels=codec.channels, hop=codec.hop)
    for key, expected in mine.items():
      if getattr(h, key) != expected:
        raise ValueError(
          f'"{source}": header: expected {key} {expected} of its model, got {getattr(h, key)}.'
        )
    if h.levels != codec.levels:
      raise ValueError(
        f'"{source}" holds {len(h.levels)} groups of codes, this codec was opened with '
        f"{len(codec.levels)}. Use groups={len(h.levels)}."
      )
    if h.noise_seed >= 2**32:
      raise ValueError(
        f'"{source}": header: expected noise_seed in 0..2^32 - 1, got {h.noise_seed}.'
      )
    part, clipped = target + ".part", 0
    try:
      with soundfile.SoundFile(part, "w", h.sample_rate, h.channels, subtype, format=kind) as out:
        read = lambda start, n: reader.read(start, n)
        for wav in codec.decode_stream(read, h.samples, nfe=nfe, seed=h.noise_seed):
          clipped += int((np.abs(wav) > 1).sum())
          # Rounded here: libsndfile rounds floats differently for each format.
          out.write(streams.to_pcm(wav))
      os.replace(part, target)
    except soundfile.LibsndfileError as e:
      raise ValueError(f'"{target}" cannot be written: {e.error_string}') from None
    finally:
      if os.path.exists(part):
        os.remove(part)
  return {"samples": h.samples, "clipped": clipped / max(1, h.samples * h.channels)}


def _pairs(source: str, target: str, endings, new_ending: str):
  """(in, out) of a file, or of all fitting files below a folder."""
  if not os.path.exists(source):
    raise ValueError(f'"{source}" does not exist.')
  if not os.path.isdir(source):
    return [(source, target)]
  found = []
  for folder, _, names in os.walk(source):
    for name in sorted(names):
      if os.path.splitext(name)[1].lower() in endings:
        path = os.path.join(folder, name)
        stem = os.path.splitext(os.path.relpath(path, source))[0]
        found.append((path, os.path.join(target, stem + new_ending)))
  if not found:
    raise ValueError(f'"{source}" holds no files ending in {", ".join(sorted(endings))}.')
  outputs = [o for _, o in found]
  if len(set(outputs)) < len(outputs):
    twice = next(o for o in outputs if outputs.count(o) > 1)
    raise ValueError(f'Two files of "{source}" would become "{twice}". Rename one of them.')
  for _, out in found:
    os.makedirs(os.path.dirname(out), exist_ok=True)
  return found


def _parser():
  parser = argparse.ArgumentParser(
    prog="python -m proj.meanflow_codec.codec", description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )  # fmt: skip
  sub = parser.add_subparsers(dest="command", required=True)
  for name, text in (("encode", "recording(s) -> codec file(s)"), ("decode", "back to sound")):
    p = sub.add_parser(name, help=text)
    p.add_argument("--workdir", required=True, help="of the trained codec, or workdir:step")
    p.add_argument("source", metavar="IN")
    p.add_argument("target", metavar="OUT")
    p.add_argument(
      "--core",
      type=int,
      default=None,
      help="tokens a window adds; files decoded with the core of a stream are bit-equal to it "
      "(default: what fits a window)",
    )
  encode, decode = sub.choices["encode"], sub.choices["decode"]
  encode.add_argument("--resample", action="store_true", help="convert other rates and channels")
  encode.add_argument("--seed", type=int, default=0, help="of the decoder's noise")
  encode.add_argument(
    "--coding",
    choices=("packed", "range"),
    default="packed",
    help="range: shorter files, by the run's prior",
  )
  encode.add_argument(
    "--kbps",
    type=float,
    default=None,
    help="a lower rate, for a run with quantizer_dropout (before range coding)",
  )
  decode.add_argument("--nfe", type=int, default=None, help="evaluations; 0: plain AE (default 1)")
  decode.add_argument("--format", choices=("wav", "flac"), default="wav", help="for folders")
  stream = sub.add_parser("stream", help="s16le samples from stdin -> their decoded sound, stdout")
  stream.add_argument("--workdir", required=True, help="of the trained codec, or workdir:step")
  stream.add_argument("--nfe", type=int, default=None, help="evaluations; 0: plain AE (default 1)")
  stream.add_argument("--core", type=int, default=2, help="tokens a window adds: few wait less")
  stream.add_argument("--seed", type=int, default=0, help="of the decoder's noise")
  info = sub.add_parser("info", help="what a codec file says of itself")
  info.add_argument("source", metavar="IN")
  return parser


def main(argv=None) -> None:
  """The command line; errors that a user can mend end it with one line."""
  flags = _parser().parse_args(argv)
  try:
    _run(flags)
  except (ValueError, OSError) as e:
    sys.exit(f"{type(e).__name__}: {e}")
  except KeyboardInterrupt:
    sys.exit(130)


def _saved(packed: int, payload: int) -> str:
  """A note like ", range coding saved 34 %"."""
  share = 1 - payload / max(1, packed)
  return f", range coding {'saved' if share >= 0 else 'added'} {abs(share):.0%}".replace("%", " %")


def _encoded(name: str, infos: list[dict], rate_of: str = "bytes") -> str:
  """A line about files that were written; their rate is that of whole files or of payloads."""
  total = {k: sum(i[k] for i in infos) for k in ("secs", "bytes", "payload_bytes", "packed_bytes")}
  kbps = f"{total[rate_of] * 8e-3 / total['secs']:.3f}" if total["secs"] else "-"
  what = " of payload" if rate_of == "payload_bytes" else ""
  ranged = any(i["coding"] == "range" for i in infos)
  note = _saved(total["packed_bytes"], total["payload_bytes"]) if ranged else ""
  return f"{name}: {total['secs']:.2f} s, {total['bytes']} bytes, {kbps} kbps{what}{note}"


def _stream(flags):
  sink = sys.stdout.buffer
  # What a library prints must not get into the sound.
  with contextlib.redirect_stdout(sys.stderr):
    codec = open_codec(flags.workdir, core=flags.core)
    nfe = (1 if codec.has_refiner else 0) if flags.nfe is None else flags.nfe
    say = lambda text: print(text, file=sys.stderr, flush=True)
    streams.pipe(codec, sys.stdin.buffer, sink, nfe=nfe, seed=flags.seed, say=say)


def _run(flags):
  if flags.command == "info":
    info = bitstream.info(flags.source)
    for key, value in info.items():
      print(f"{key:16} {f'{100 * value:.1f} %' if key == 'saving' else value}")
    return
  from absl import logging

  logging.set_verbosity(logging.ERROR)  # orbax warns of metadata that no one needs
  if flags.command == "stream":
    _stream(flags)
    return
  codec = open_codec(flags.workdir, core=flags.core)
  if flags.command == "encode":
    if flags.kbps is not None:
      codec = at_rate(codec, flags.kbps)
    from big_audio.datasets.audio import AV, SNDFILE

    done = []
    for source, target in _pairs(flags.source, flags.target, SNDFILE | AV, SUFFIX):
      info = encode_file(codec, source, target, resample=flags.resample, seed=flags.seed,
                         coding=flags.coding)  # fmt: skip
      print(_encoded(target, [info]))
      done.append(info)
    if os.path.isdir(flags.source):
      print(_encoded(f"{len(done)} files", done, "payload_bytes"))
    return
  nfe = (1 if codec.has_refiner else 0) if flags.nfe is None else flags.nfe
  for source, target in _pairs(flags.source, flags.target, {SUFFIX}, "." + flags.format):
    groups = len(bitstream.info(source)["levels"])
    if groups not in codec.rates:
      raise ValueError(
        f'"{source}" holds {groups} groups of codes; this run has {codec.rates[-1]}, and was '
        f"trained for the first {', '.join(map(str, codec.rates))}. Decode it with its own workdir."
      )
    out = decode_file(codec.with_groups(groups), source, target, nfe=nfe)
    note = f", {out['clipped']:.2%} of the samples clipped" if out["clipped"] else ""
    print(f"{target}: {out['samples']} samples, {nfe} evaluation(s){note}")


if __name__ == "__main__":
  main()
