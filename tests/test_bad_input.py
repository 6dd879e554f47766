"""What users get wrong, through `train.py` itself: one clear message each, never a traceback."""

import json
import os
import sys

import jax
import numpy as np
import pytest
import soundfile as sf
from absl import flags

from big_audio import checkpoint
from big_audio import config as C
from tests import commands

SMOKE = "configs/meanflow.py:data=digits,smoke"


def main(capsys, config, workdir, *overrides):
  """`train.py` in this process: (exit code or message of sys.exit, what it printed)."""
  import train

  argv = commands.command(config, workdir, *overrides)[1:]
  values = flags.FLAGS
  old = {name: values[name].value for name in ("config", "workdir")}
  try:
    rest = values(argv, known_only=True)
    train.main(rest)
    code = 0
  except SystemExit as e:
    code = e.code
  finally:
    for name, value in old.items():
      values[name].value = value
  out = capsys.readouterr()
  assert "Traceback" not in out.err
  return code, out.out + out.err


# Rows for however many devices the tests simulate.
EIGHT = (
  "input.batch_size=8", "evals.val.batch_size=8", "evals.val.limit=1", "evals.samples.batch_size=8",
  "evals.samples.count=1", "evals.distance.batch_size=8", "evals.distance.limit=1",
)  # fmt: skip


def refused(capsys, config, workdir, *overrides):
  """The message that `train.py` ends with."""
  code, _ = main(capsys, config, workdir, *overrides)
  assert isinstance(code, str), code
  return code


def recordings(folder, n=20, sr=8000, secs=1.0, start=0):
  folder.mkdir(exist_ok=True)
  rng = np.random.default_rng(0)
  for i in range(start, start + n):
    wav = 0.1 * rng.standard_normal(int(sr * secs)).astype(np.float32)
    sf.write(folder / f"r{i}.flac", wav, sr)
  return folder


def break_body(path):
  """The header stays as it is, so the file is indexed; its frames cannot be decoded."""
  data = bytearray(path.read_bytes())
  begin = len(data) // 4
  data[begin:] = os.urandom(len(data) - begin)
  path.write_bytes(bytes(data))


def audio(folder, **kw):
  kw = {"train": "r[2-9]", "validation": "r0", "test": "r1", **kw}
  text = ",".join(f"{k}={v}" for k, v in kw.items())
  return f"configs/meanflow.py:data=audio_dir,smoke,method=ae,dir={folder},{text}"


@pytest.mark.parametrize(
  ("config", "overrides", "expected"),
  [
    ("configs/meanflow.py:dta=digits", (), ["'dta'", '"data"']),
    ("configs/meanflow.py:data=digit", (), ["data='digit'", '"digits"']),
    ("configs/meanflow.py:sr=8k", (), ["'sr'", "expected int", "'8k'"]),
    ("configs/meanflo.py", (), ["meanflo.py", '"meanflow.py"']),
    ("nowhere/config.json", (), ["nowhere/config.json", "does not exist"]),
    (SMOKE, ("total_stps=5",), ["total_stps", '"total_steps"']),
    (SMOKE, ("input.batchsize=5",), ["batchsize", '"batch_size"']),
    (SMOKE, ("total_steps=many",), ["config.total_steps", "expected int", "'many'"]),
    (SMOKE, ("trainer.method=imff",), ["config.trainer.method", "'imff'", '"imf"']),
    (SMOKE, ("models.net.model=mlp_flo",), ["mlp_flo", '"mlp_flow"']),
    (SMOKE, ("evals.val.type=meen",), ["meen", '"mean"']),
    (SMOKE, ("optimizer.name=adm",), ["adm", '"adam"']),
    (SMOKE, ("--wrkdir=x",), ["--wrkdir", '"workdir"']),
    (SMOKE, ("input.data.train.source=digitz",), ["config.input.data.train", '"digitz"', "digits"]),
    (SMOKE, ("input.data.train.split=trian",), ["trian", "train"]),
    (SMOKE, ("input.data.train.pp=kep('image')",), ["config.input.data.train.pp", '"keep"']),
    (SMOKE, ("input.data.train.pp=keep('img')",), ["config.input.data.train.pp", '"image"']),
    ("configs/meanflow.py:data=audio_dir", (), ["data=audio_dir", "dir=PATH"]),
  ],
)  # fmt: skip
def test_unknown_names_and_values(capsys, tmp_path, config, overrides, expected):
  message = refused(capsys, config, tmp_path / "w", *overrides)
  for part in expected:
    assert part in message
  assert len(message) < 1000


def test_batch_not_divisible_by_devices(capsys, tmp_path):
  n = jax.device_count()
  if n == 1:
    pytest.skip("needs several devices")
  message = refused(capsys, SMOKE, tmp_path, f"input.batch_size={n + 1}")
  assert f"batch_size={n + 1} must be a multiple of {n} devices" in message
  assert f"Use {n} or {2 * n}." in message
  assert f"Use {n}." in refused(capsys, SMOKE, tmp_path, f"input.batch_size={n - 1}")


def test_data_folders(capsys, tmp_path):
  (tmp_path / "speech").mkdir()
  message = refused(capsys, audio(tmp_path / "speach"), tmp_path / "w", *EIGHT)
  assert "no such folder" in message and "Beside it: speech" in message
  message = refused(capsys, audio(tmp_path / "speech"), tmp_path / "w", *EIGHT)
  assert "speech" in message and "no recordings, it holds none" in message
  for i in range(3):
    (tmp_path / "speech" / f"r{i}.wav").write_bytes(os.urandom(1000))
  message = refused(capsys, audio(tmp_path / "speech"), tmp_path / "w", *EIGHT)
  assert "no recordings, all 3 are unfit: r0.wav" in message


def test_rates(capsys, tmp_path):
  folder = recordings(tmp_path / "a", 4)
  recordings(folder, 4, sr=16000, start=4)
  message = refused(capsys, audio(folder), tmp_path / "w", *EIGHT)
  assert "mixed rates: 4 at 8000 Hz, 4 at 16000 Hz" in message and "Set sr=8000" in message
  folder = recordings(tmp_path / "b", 4, sr=16000)
  message = refused(capsys, audio(folder, sr=8000), tmp_path / "w", *EIGHT)
  assert "config.input.data.train.pp: require_sr(8000)" in message
  assert "at 16000 Hz. Make the model for 16000 Hz, or resample" in message


def test_corrupt_audio_beyond_and_within_the_limit(capsys, tmp_path):
  folder = recordings(tmp_path / "a", 10)
  break_body(folder / "r7.flac")
  config = C.to_dict(C.load(SMOKE + ",method=ae"))
  config |= dict(evals={}, total_steps=8)
  config["trainer"] |= dict(key="wav", tokens=dict(name="reshape", patch=80))
  config["models"]["net"]["dim"] = 80
  config["input"] |= dict(
    batch_size=8,
    data=dict(train=dict(source="audio_dir", dir=str(folder), splits=dict(train="r"),
                         pp="crop(samples=80)|keep('wav')")),
  )  # fmt: skip
  stored = tmp_path / "config.json"
  stored.write_text(json.dumps(config))
  message = refused(capsys, str(stored), tmp_path / "none")
  assert "config.input.max_bad_share=0.0: 1 of" in message
  assert '"r7.flac"' in message and "Repair or remove the files, or allow more." in message
  code, _ = main(capsys, str(stored), tmp_path / "some", "input.max_bad_share=0.5")
  assert code == 0
  failed = [json.loads(s) for s in (tmp_path / "some" / "failed.jsonl").read_text().splitlines()]
  assert failed and {f["id"] for f in failed} == {"r7.flac"}
  assert all(f["source"] == "train" and f["reason"] and 1 <= f["step"] <= 8 for f in failed)
  last = commands.rows(tmp_path / "some", z=True)[-1]
  assert last["step"] == 8 and 0 < last["z/bad_share"] < 0.5


def test_workdir_of_another_config(tmp_path):
  """The whole program: exit code 1, one message, nothing else."""
  workdir = tmp_path / "w"
  checkpoint.claim_workdir(C.with_defaults(C.load(SMOKE)), str(workdir))
  (workdir / "metrics.jsonl").write_text('{"step": 1, "train/loss": 0.5}\n')
  argv = commands.command(SMOKE, workdir, "optimizer.lr=0.5")
  code, text = commands.finish(argv, tmp_path / "log")
  assert code == 1 and "Traceback" not in text
  assert f"{workdir} belongs to another config:\n  optimizer/lr: stored 0.001, now 0.5\n" in text
  assert "Use another --workdir" in text and len(text.splitlines()) == 3


@pytest.mark.parametrize(
  ("argv", "expected"),
  [
    (["--config=x.py"], "workdir"),
    (["--config", "configs/meanflow.py", "--workdir", "w", "extra"], "Unknown argument 'extra'"),
  ],
)
def test_flags(tmp_path, argv, expected):
  code, text = commands.finish([sys.executable, "train.py", *argv], tmp_path / "log")
  assert code == 1 and expected in text and "Traceback" not in text
