"""Tables and plots: every number lands in a cell, nothing is averaged or dropped in silence."""

import csv
import io
import json

import pytest

from big_audio.tools import evaluate, manifests, plots, results, runs, tables
from big_audio.tools.tables import Table


def workdir(folder, name, rows, config=None):
  (folder / name).mkdir(parents=True)
  (folder / name / "config.json").write_text(json.dumps(config or {}))
  manifests.write(folder / name / "metrics.jsonl", rows)


@pytest.fixture
def sweep(tmp_path):
  """Two methods, two nets, three seeds; one run failed, one left no number, one is NaN."""
  root, listed = tmp_path / "sweep", []
  for m, method in enumerate(("fm", "imf")):
    for n, net in enumerate(("dit", "mlp")):
      for seed in range(3):
        settings = {"method": method, "net": net, "config.seed": seed}
        name = f"method={method},net={net},seed={seed}"
        failed = (method, net) == ("imf", "mlp")
        listed.append(dict(name=name, settings=settings, state="failed" if failed else "done"))
        if not failed:
          mel = 1.0 - m * 0.5 + n * 0.1 + seed * 0.01
          evals = dict(distance=dict(data=dict(source="x", split="validation")))
          workdir(root, name, [
            {"step": 5, "val/distance/nfe1/mel": 9.0, "train/loss": 1.0},
            {"step": 10, "val/distance/nfe1/mel": mel,
             "val/distance/identity/mel": 0.0, "val/distance/kbps": 1.5,
             "val/distance/nfe2/mel": "NaN" if seed == 2 else mel - 0.1},
          ], dict(evals=evals, trainer=dict(method=method)))  # fmt: skip
  manifests.write(root / runs.SWEEP, listed)
  return root


def make(sweep, rows, columns, *where, **kw):
  return Table(results.where(results.load([str(sweep)]), where), rows, columns, **kw)


MEL = ("measure=mel", "row=nfe1")


def test_medians_over_seeds_best_failed_and_nothing_dropped(sweep):
  t = make(sweep, ["method"], ["net"], *MEL)
  assert t.markdown() == (
    "| method | dit | mlp |\n| --- | --- | --- |\n"
    "| fm | 1.01 [1, 1.02] | 1.11 [1.1, 1.12] |\n"
    "| imf | **0.51 [0.5, 0.52]** | failed |\n"
  )
  assert t.count == 9, "every number of every run is in the table"
  found = list(csv.DictReader(io.StringIO(t.csv())))
  assert float(found[1]["dit"]) == pytest.approx(0.51) and found[1]["dit n"] == "3"
  assert float(found[0]["mlp min"]) == pytest.approx(1.1) and found[1]["mlp"] == "failed"
  assert r"\textbf{0.51 [0.5, 0.52]}" in t.latex() and r"fm & 1.01" in t.latex()
  assert "<td><b>0.51 [0.5, 0.52]</b></td><td>failed</td>" in t.html()


def test_not_finite_controls_and_the_stored_config(sweep):
  where = ("measure=mel", "net=dit")
  t = make(sweep, ["config.trainer.method", "row"], ["measure"], *where)
  cells = {r: t.cell(r, ("mel",)) for r in t.rows}
  assert cells[("fm", "nfe2")] == ("0.905 [0.9, 0.91] (1 of 3 not finite)", False)
  assert cells[("imf", "nfe2")][1] and not cells[("imf", "identity")][1]
  assert cells[("imf", "identity")][0] == "0 [0, 0]"
  plain = make(sweep, ["method"], ["net"], *MEL, best="none")
  assert not any(plain.cell(r, c)[1] for r in plain.rows for c in plain.columns)
  worst = make(sweep, ["method"], ["net"], *MEL, best="max")
  assert worst.cell(("fm",), ("dit",))[1]


def test_numbers_that_fall_together_are_an_error(sweep):
  with pytest.raises(ValueError, match=r"differ in .*net: dit, mlp"):
    make(sweep, ["method"], ["measure"], *MEL)
  with pytest.raises(ValueError, match="row: identity, nfe1, nfe2"):
    make(sweep, ["method"], ["net"], "measure=mel")
  with pytest.raises(ValueError, match="no run has 'methd'. Did you mean \"method\""):
    make(sweep, ["methd"], ["net"], *MEL)
  with pytest.raises(ValueError, match='leaves nothing. Did you mean "nfe2" or "nfe1"'):
    make(sweep, ["method"], ["net"], "row=nfe3")
  with pytest.raises(ValueError, match="share a key"):
    make(sweep, ["net"], ["net"], *MEL)
  with pytest.raises(ValueError, match="expected KEY=VALUE"):
    make(sweep, ["net"], ["method"], "mel")


def test_plain_workdirs_and_missing_cells(tmp_path, capsys):
  workdir(tmp_path, "a", [{"step": 1, "val/v/mse": 0.25, "val/v/psnr": 20}])
  workdir(tmp_path, "b_c", [{"step": 1, "val/v/mse": 0.5}])
  out = tmp_path / "t.md"
  argv = [str(tmp_path / "a"), str(tmp_path / "b_c"), "--rows", "run", "--out", str(out)]
  assert tables.main(argv) == 0
  assert out.read_text().splitlines()[2:] == ["| a | **0.25** | 20 |", "| b_c | 0.5 | - |"]
  assert "3 numbers in 3 cells, 1 cells empty" in capsys.readouterr().err
  assert tables.main([str(tmp_path), "--rows", "run", "--format", "latex"]) == 0
  assert r"b\_c & 0.5 & - \\" in capsys.readouterr().out
  assert tables.main([str(tmp_path / "none")]) == 2
  assert "neither the workdir" in capsys.readouterr().err


def test_from_the_json_of_evaluate_with_unavailable_measures(tmp_path):
  base = dict(step=1, evaluator="d", type="x", split="test", settings={})
  evaluate.write(str(tmp_path / "e"), [
    dict(base, workdir="r/a", row="nfe1", nfe=1, values=dict(pesq="unavailable", mel=1e-5)),
    dict(base, workdir="r/b", row="nfe1", nfe=1, values=dict(pesq=3.25, mel=float("nan"))),
    dict(workdir="r/c", step=None, evaluator="", settings={}, values={}, error="ValueError: x"),
  ])  # fmt: skip
  t = Table(results.load([str(tmp_path / "e.json")]), ["run", "row"], ["measure"])
  cells = {(r[0], c[0]): t.cell(r, c)[0] for r in t.rows for c in t.columns}
  assert cells[("a", "pesq")] == "unavailable" and cells[("b", "pesq")] == "3.25"
  assert cells[("a", "mel")] == "1e-05" and cells[("b", "mel")] == "NaN"
  assert cells[("c", "mel")] == "failed" == cells[("c", "pesq")]


def evaluated(workdir, key, row="nfe1", seed=0, **values):
  return dict(workdir=workdir, step=1, evaluator="d", type="x", split="test", ema=True, key=key,
              dtype="as trained", settings={"config.seed": seed}, row=row, nfe=1,
              values=values)  # fmt: skip


def test_evaluations_with_other_settings_are_not_averaged(tmp_path, capsys):
  rows = [evaluated("r/a", "k1", mel=1.0), evaluated("r/a", "k2", mel=2.0)]
  rows.append(evaluated("r/b", "k3", seed=1, mel=4.0))
  path = str(tmp_path / "e.json")
  evaluate.write(path.removesuffix(".json"), rows)
  argv = [path, "--rows", "row"]
  assert tables.main(argv) == 2
  err = capsys.readouterr().err
  assert "mel of r/a, step 1, d/nfe1, by evaluations with other settings" in err
  assert "--where key=k1 or key=k2" in err
  assert tables.main([*argv, "--where", "key=k1/k3"]) == 0
  assert "| nfe1 | 2.5 [1, 4] |" in capsys.readouterr().out
  assert tables.main([path, path, "--rows", "row", "--where", "key=k1"]) == 2
  assert "Name each source once" in capsys.readouterr().err
  assert plots.main([path, "--y", "mel", "--out", str(tmp_path / "p.svg")]) == 2
  assert "by evaluations with other settings" in capsys.readouterr().err


def test_a_measured_x_is_of_the_same_evaluation(tmp_path):
  rows = []
  for dtype, kbps, mel in (("as trained", 1.5, 1.0), ("bfloat16", 3.0, 2.0)):
    for row in (evaluated("r/a", dtype, "", kbps=kbps), evaluated("r/a", dtype, mel=mel)):
      rows.append({**row, "dtype": dtype})
  evaluate.write(str(tmp_path / "e"), rows)
  found = plots.series(results.load([str(tmp_path / "e.json")]), "kbps", "mel", ["dtype"])
  assert found == {"as trained": [(1.5, 1.0, 1.0, 1.0)], "bfloat16": [(3.0, 2.0, 2.0, 2.0)]}


def test_a_missing_package_is_told_in_the_cells_of_its_measure(tmp_path):
  found = {"kbps": 1.5, "ae/mel": 2.0, "nfe1/mel": 1.0, "unavailable/pesq_nb": 1.0}
  workdir(tmp_path, "a", [{"step": 1, **{f"val/d/{k}": v for k, v in found.items()}}])
  values = evaluate.rows_of(found.items())
  assert values == {"": dict(kbps=1.5), "ae": dict(mel=2.0, pesq_nb="unavailable"),
                    "nfe1": dict(mel=1.0, pesq_nb="unavailable")}  # fmt: skip
  assert evaluate.rows_of([("unavailable/stoi", 1.0)]) == {"": dict(stoi="unavailable")}
  t = Table(results.load([str(tmp_path)]), ["row"], ["measure"])
  cells = {(r[0], c[0]): t.cell(r, c)[0] for r in t.rows for c in t.columns}
  assert [r[0] for r in t.rows] == ["", "ae", "nfe1"]
  assert cells[("ae", "pesq_nb")] == cells[("nfe1", "pesq_nb")] == "unavailable"
  assert cells[("", "pesq_nb")] == "-" and cells[("", "kbps")] == "1.5"
  # Installed since: the newer value stands.
  workdir(tmp_path, "b", [
    {"step": 1, "val/d/unavailable/pesq_nb": 1.0}, {"step": 2, "val/d/nfe1/pesq_nb": 3.0},
  ])  # fmt: skip
  (record,) = results.load([str(tmp_path / "b")])
  assert (record["row"], record["step"], record["value"]) == ("nfe1", 2, 3.0)


def test_controls_are_never_the_best(tmp_path):
  rows = {"identity": 100, "mean": 30, "unrelated": 25, "real": 24, "zero": 23, "nfe1": 20, "ae": 9}
  workdir(tmp_path, "a", [{"step": 1, **{f"val/mean/{k}/psnr": v for k, v in rows.items()}}])
  t = Table(results.load([str(tmp_path)]), ["evaluator", "row"], ["measure"])
  assert [r for r in t.rows if t.cell(r, ("psnr",))[1]] == [("mean", "nfe1")]
  # One that shows the same number as the best is not bold either.
  workdir(tmp_path / "b", "b", [{"step": 1, "val/d/mean/mse": 2, "val/d/ae/mse": 2,
                                 "val/d/nfe1/mse": 3}])  # fmt: skip
  t = Table(results.load([str(tmp_path / "b")]), ["row"], ["measure"])
  assert [r for r in t.rows if t.cell(r, ("mse",))[1]] == [("ae",)]


def test_directions_of_what_evaluators_measure():
  from big_audio.evaluators import audio_distance, frechet, image_distance

  lower = {"lsd", "mel", "dac_mel", "dac_train_mel", "dac_stft", "mr_stft", "mse", "fd", "kid"}
  for module in (audio_distance, image_distance, frechet):
    for m in set(module.MEASURES) - {"manifold"}:
      assert results.better(f"nfe1/{m}") == ("min" if m in lower else "max"), m
  for m in ("fd_half", "nfe1/kid_half", "codes/coded_bits", "coded_bits_given_previous", "rtf_enc",
            "rtf_dec", "rtf_encode", "rtf_nfe2", "rtf_ae", "drift/nfe1/gen4",
            "diversity/nfe1_to_original"):  # fmt: skip
    assert results.better(m) == "min", m
  for m in ("precision_half", "usage", "perplexity", "gen2_same_codes", "head/balanced_accuracy"):
    assert results.better(m) == "max", m
  for m in ("items", "kbps", "fd_half_std", "psnr_lo", "mel_hi", "rtf_batch", "tokens", "nfe1",
            "nominal_bits", "class/3", "half", "_half", "fidelity"):  # fmt: skip
    assert results.better(m) == "none", m


def test_series_against_evaluations_and_bitrate(sweep, tmp_path, capsys):
  records = results.load([str(sweep)])
  found = plots.series(records, "nfe", "mel", ["method"], ["net=dit"])
  assert list(found) == ["fm", "imf"]
  assert found["fm"] == [pytest.approx((1, 1.01, 1.0, 1.02)), pytest.approx((2, 0.905, 0.9, 0.91))]
  found = plots.series(records, "kbps", "mel", ["method", "nfe"], ["net=dit", "row=nfe1"])
  assert found["imf, 1"] == [pytest.approx((1.5, 0.51, 0.5, 0.52))]
  with pytest.raises(ValueError, match="differ in"):
    plots.series(records, "kbps", "mel", ["method"], ["net=dit"])
  out = tmp_path / "p.svg"
  argv = [str(sweep), "--y", "mel", "--lines", "method", "--where", "net=dit", "--log-x"]
  assert plots.main([*argv, "--floor", "identity", "--out", str(out)]) == 0
  assert "4 points in 2 lines" in capsys.readouterr().out
  assert "<svg" in out.read_text() and not list(tmp_path.glob("*.tmp*"))
  for bad, words in (
    (["--y", "mell", "--out", "x.png"], 'Did you mean "mel"'),
    (["--y", "mel", "--out", "x.txt"], "ends in .png"),
    (
      ["--y", "mel", "--lines", "method,net", "--floor", "none", "--out", "x.png"],
      "there are identity, nfe1, nfe2",
    ),
    (["--y", "mel", "--x", "net", "--out", "x.png"], "no run has a number for x='net'"),
  ):
    assert plots.main([str(sweep), *bad]) == 2
    assert words in capsys.readouterr().err


def test_rows_and_columns_stand_in_the_order_of_their_numbers():
  found = [
    dict(key=None, run=n, row=row, measure="fd", value=1.0, settings={}, config={})
    for n in (10, 9)
    for row in ("nfe32", "real", "nfe8", "2nd", "nfe8b")
  ]
  table = Table(found, ["run"], ["row"])
  assert [r[0] for r in table.rows] == [9, 10]
  assert [c[0] for c in table.columns] == ["2nd", "nfe8", "nfe8b", "nfe32", "real"]
