"""The command line on folders, and on samples from stdin."""

import io
import re
import sys
import types

import numpy as np
import pytest
import soundfile

from proj.meanflow_codec import bitstream, codec, streams, windows
from tests.proj.meanflow_codec.test_windows import make_runner

SR, T = 8000, 5003


@pytest.fixture(scope="module")
def mine():
  return windows.WindowCodec(make_runner(), core=4)


@pytest.fixture
def pcm():
  """int16[T, 1], some of it at full scale."""
  wav = 0.3 * np.random.default_rng(5).standard_normal((T, 1))
  return streams.to_pcm(np.concatenate([wav[:-3], [[1.0], [-1.0], [0.9]]]))


@pytest.mark.parametrize("coding", ["packed", "range"])
def test_a_folder_ends_with_a_total(tmp_path, monkeypatch, capsys, mine, pcm, coding):
  monkeypatch.setattr(codec, "open_codec", lambda workdir, core: mine)
  (tmp_path / "in").mkdir()
  for i, n in enumerate((T, 3000)):
    soundfile.write(tmp_path / f"in/{i}.wav", pcm[:n], SR)
  argv = [str(tmp_path / "in"), str(tmp_path / "out"), "--coding", coding]
  codec.main(["encode", "--workdir", "w", *argv])
  *lines, total = capsys.readouterr().out.splitlines()
  infos = [bitstream.info(tmp_path / f"out/{i}.bac") for i in range(2)]
  assert len(lines) == 2 and total.startswith("2 files: 1.00 s, ")
  for line, info in zip(lines, infos, strict=True):
    assert f"{info['bytes']} bytes, {info['kbps']:.3f} kbps" in line
    share = re.search(r"range coding (saved|added) (\d+) %$", line)
    assert bool(share) == (coding == "range")
    if share:
      sign = 1 if share[1] == "saved" else -1
      assert sign * int(share[2]) == pytest.approx(100 * info["saving"], abs=0.51)
  payload, packed = (sum(i[k] for i in infos) for k in ("payload_bytes", "packed_bytes"))
  assert f", {sum(i['bytes'] for i in infos)} bytes, " in total
  assert f"{payload * 8 / (8003 / SR) / 1000:.3f} kbps of payload" in total
  if coding == "range":
    assert re.search(rf"(saved|added) {abs(1 - payload / packed):.0%}"[:-1] + " %$", total)
  codec.main(["info", str(tmp_path / "out/0.bac")])
  out = capsys.readouterr().out
  assert re.search(rf"^saving +{100 * infos[0]['saving']:.1f} %$".replace("-", "\\-"), out, re.M)
  assert re.search(r"^packed_kbps +1\.5", out, re.M)


@pytest.mark.parametrize(
  "argv,message",
  [
    (["encode", "in.wav", "in.wav"], "named like a recording"),
    (["encode", "in.wav", "out.bac", "--kbps", "0"], "must be positive"),
    (["decode", "in.bac", "absent/out.wav"], 'absent/out.wav" cannot be written'),
  ],
)
def test_bad_targets_end_with_a_line_and_lose_nothing(
  tmp_path, monkeypatch, mine, pcm, argv, message
):
  monkeypatch.setattr(codec, "open_codec", lambda workdir, core: mine)
  monkeypatch.chdir(tmp_path)
  soundfile.write("in.wav", pcm, SR)
  codec.encode_file(mine, "in.wav", "in.bac")
  before = {n: (tmp_path / n).read_bytes() for n in ("in.wav", "in.bac")}
  with pytest.raises(SystemExit, match=message):
    codec.main([argv[0], "--workdir", "w", *argv[1:]])
  assert before == {p.name: p.read_bytes() for p in tmp_path.iterdir()}


def test_an_empty_recording_has_no_rate(tmp_path, monkeypatch, capsys, mine, pcm):
  monkeypatch.setattr(codec, "open_codec", lambda workdir, core: mine)
  soundfile.write(tmp_path / "in.wav", pcm[:0], SR)
  codec.main(["encode", "--workdir", "w", str(tmp_path / "in.wav"), str(tmp_path / "out.bac")])
  assert ": 0.00 s, " in (said := capsys.readouterr().out) and "bytes, - kbps" in said


def offline(mine, pcm, nfe, seed):
  wav = pcm.astype(np.float32) / 32768
  return streams.to_pcm(mine.decode(mine.encode(wav), len(wav), nfe=nfe, seed=seed))


@pytest.mark.parametrize("samples", [0, 1, 160, T])
def test_a_stream_of_samples_is_the_file_coded_offline(mine, pcm, samples):
  source, sink, said = io.BytesIO(pcm[:samples].astype("<i2").tobytes()), io.BytesIO(), []
  got = streams.pipe(mine, source, sink, nfe=1, seed=3, say=said.append)
  expected = offline(mine, pcm[:samples], 1, 3)
  np.testing.assert_array_equal(np.frombuffer(sink.getvalue(), "<i2"), expected[:, 0])
  assert got["samples"] == samples and got["payload_bits"] == 30 * -(-samples // 160)
  latency = mine.latency() + mine.latency(1)
  numbers = [float(x) for x in re.findall(r"(\d\.\d\d) s to", said[0])]
  assert "8000 Hz, 1 channel" in said[0] and sum(numbers) == pytest.approx(latency, abs=0.011)
  assert len(said) == 1 + (samples > 0) and "1.5 kbps" in said[0]


def test_a_stream_comes_out_block_by_block(mine, pcm):
  """Of the samples that a read waits for, all but the last `latency` (and a token) are out."""
  raw, late = io.BytesIO(), []

  class Microphone(io.BytesIO):
    def read(self, n):
      late.append((self.tell() + n - len(raw.getvalue())) // 2)
      return super().read(n)

  with io.BufferedWriter(raw, 1 << 20) as sink:
    streams.pipe(mine, Microphone(pcm.astype("<i2").tobytes()), sink, nfe=0)
    assert 0 < max(late) <= (mine.latency() + mine.latency(0)) * SR + mine.hop
    assert len(raw.getvalue()) == 2 * T


@pytest.mark.parametrize("nfe", [0, 1])
def test_files_with_the_core_of_a_stream_are_bit_equal_to_it(tmp_path, mine, pcm, monkeypatch, nfe):
  """Command against command."""
  cores = []

  def open_codec(workdir, core=None):
    cores.append(core)
    return windows.WindowCodec(mine._runner, core=core)

  monkeypatch.setattr(codec, "open_codec", open_codec)
  source, coded, back = (str(tmp_path / n) for n in ("in.wav", "a.bac", "out.wav"))
  soundfile.write(source, pcm, SR)
  codec.main(["encode", "--workdir", "w", source, coded, "--core", "2"])
  codec.main(["decode", "--workdir", "w", coded, back, "--core", "2", "--nfe", str(nfe)])
  sink = io.BytesIO()
  monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(pcm.tobytes())))
  monkeypatch.setattr(sys, "stdout", types.SimpleNamespace(buffer=sink, write=None))
  codec.main(["stream", "--workdir", "w", "--core", "2", "--nfe", str(nfe)])
  streamed = np.frombuffer(sink.getvalue(), "<i2")
  np.testing.assert_array_equal(soundfile.read(back, dtype="int16")[0], streamed)
  assert cores == [2, 2, 2] and len(np.unique(streamed)) > 100


def test_the_stream_command(mine, pcm, monkeypatch, capsys):
  def open_codec(workdir, core):
    print("from a library")
    return windows.WindowCodec(mine._runner, core=core)

  monkeypatch.setattr(codec, "open_codec", open_codec)
  data = pcm.astype("<i2").tobytes()
  for content in (data, data[:-1]):
    sink = io.BytesIO()
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(content)))
    monkeypatch.setattr(sys, "stdout", types.SimpleNamespace(buffer=sink, write=None))
    argv = ["stream", "--workdir", "w", "--core", "4", "--nfe", "0"]
    if content == data:
      codec.main(argv)
      np.testing.assert_array_equal(
        np.frombuffer(sink.getvalue(), "<i2"), offline(mine, pcm, 0, 0)[:, 0]
      )
    else:
      with pytest.raises(SystemExit, match=f"multiple of 2 bytes .*got {2 * T - 1}"):
        codec.main(argv)
  assert "from a library" in capsys.readouterr().err
