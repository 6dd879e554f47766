"""Pictures of samples: spectrograms side by side, grids of images, confusions, points.

matplotlib is imported inside the functions, without pyplot: no window system, no global state, and
figures can be drawn in any thread.
"""

import numpy as np

from big_audio.dsp import mel

_RANGE_DB = 80
_TICKS_HZ = (100, 300, 1000, 2000, 4000, 8000, 16000)


def mel_db(wav, sr, *, n_mels=96):
  """Mel spectrogram of the channels' mean power in dB.

  Args:
    wav: f32[T,C] in [-1,1] at sr Hz; T may be shorter than a window.
    sr: int, Hz.
    n_mels: int, at most; fewer where the filters would be narrower than a bin of the FFT.

  Returns:
    (f64[F,M] in dB, not above about 1.8, where a full-scale sine is 0 or a little more, since a
    filter also takes the window's side bins; seconds from frame to frame).
  """
  n_fft = 2 ** round(np.log2(0.04 * sr))  # about 40 ms: harmonics of speech apart, onsets sharp
  n_mels, hop = min(n_mels, n_fft // 4), n_fft // 4
  power = mel.mel_spectrogram(
    np.asarray(wav, np.float64), sr, n_fft, hop, n_mels, power=2, norm="none", pad_mode="constant"
  )
  full_scale = (n_fft / 4) ** 2  # a sine of amplitude 1 under a Hann window: (sum(w) / 2)^2
  return 10 * np.log10(np.maximum(power.mean(-1) / full_scale, 1e-12)), hop / sr


def _save(fig, path):
  fig.savefig(path, dpi=100, format="png", metadata={"Software": None})


def spectrograms(path, panels, sr, *, title=""):
  """One picture of some versions of a sound: waveforms above mel spectrograms in dB.

  Args:
    path: the png to write.
    panels: {name: f32[T,C]}; all share one dB range, that of the first (the input).
    sr: int, Hz.
    title: str above it all.
  """
  from matplotlib.figure import Figure

  n = len(panels)
  fig = Figure(figsize=(2.9 * n + 1.1, 3.9), layout="constrained")
  axes = fig.subplots(2, n, squeeze=False, sharex=True, gridspec_kw={"height_ratios": [1, 3]})
  # "$" would start a formula, and names may hold anything.
  fig.suptitle(title.replace("$", r"\$"), fontsize=10)
  top = peak = None
  for column, (name, wav) in zip(axes.T, panels.items(), strict=True):
    wave, spec = column
    db, step = mel_db(wav, sr)
    if top is None:
      top = max(10 * np.ceil(db.max() / 10), -60)
      peak = max(float(np.abs(wav).max()), 1e-3) * 1.05
    secs = len(wav) / sr
    wave.plot(np.arange(len(wav)) / sr, wav, lw=0.4)
    wave.set(ylim=(-peak, peak), xlim=(0, secs))
    wave.set_title(name.replace("$", r"\$"), fontsize=9)
    wave.tick_params(labelsize=7)
    frames, mels = db.shape
    image = spec.imshow(
      db.T,
      origin="lower",
      aspect="auto",
      interpolation="nearest",
      cmap="magma",
      vmin=top - _RANGE_DB,
      vmax=top,
      extent=(-step / 2, (frames - 0.5) * step, -0.5, mels - 0.5),
    )
    spec.set_xlabel("time [s]", fontsize=8)
    spec.set(xlim=(0, secs), ylim=(-0.5, mels - 0.5))
    ticks = [f for f in _TICKS_HZ if f < sr / 2]
    # The centre of filter m stands at (m + 1) / (M + 1) of the mel axis.
    at = [mel.hz_to_mel(f) / mel.hz_to_mel(sr / 2) * (mels + 1) - 1 for f in ticks]
    spec.set_yticks(at, [f"{f / 1000:g}k" if f >= 1000 else str(f) for f in ticks])
    spec.tick_params(labelsize=7)
  axes[0, 0].set_ylabel("amplitude", fontsize=8)
  axes[1, 0].set_ylabel("frequency [Hz], mel scale", fontsize=8)
  bar = fig.colorbar(image, ax=axes[1].tolist(), pad=0.01)
  bar.set_label("dB re full-scale sine", fontsize=8)
  bar.ax.tick_params(labelsize=7)
  _save(fig, path)


def image_grid(path, rows, *, title=""):
  """One picture: a row for each version, a column for each example.

  Args:
    path: the png to write.
    rows: {name: f32[N,H,W,C] in [-1,1]}, C 1 or 3; values outside are shown as the nearest.
    title: str above it all.
  """
  from matplotlib.figure import Figure

  n = max(len(images) for images in rows.values())
  fig = Figure(figsize=(0.9 * n + 0.8, 0.95 * len(rows) + 0.4), layout="constrained")
  axes = fig.subplots(len(rows), n, squeeze=False)
  fig.suptitle(title.replace("$", r"\$"), fontsize=10)
  for line, (name, images) in zip(axes, rows.items(), strict=True):
    line[0].set_ylabel(name.replace("$", r"\$"), fontsize=9)
    for axis, image in zip(line, images, strict=True):
      image = np.clip(np.asarray(image, np.float32) / 2 + 0.5, 0, 1)
      axis.imshow(image[..., 0] if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=1)
      axis.set(xticks=[], yticks=[])
  _save(fig, path)


def confusion(path, matrix, names, *, title=""):
  """One picture of a confusion matrix, a row for each true class, as shares of the row.

  Args:
    path: the png to write.
    matrix: int[K,K] counts, true by found.
    names: K names; where there are many, only some are written.
    title: str above it all.
  """
  from matplotlib.figure import Figure

  matrix = np.asarray(matrix, np.float64)
  shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
  n = len(matrix)
  side = min(2.2 + 0.22 * n, 9.0)
  fig = Figure(figsize=(side + 0.8, side), layout="constrained")
  axis = fig.subplots()
  image = axis.imshow(shares, cmap="magma", vmin=0, vmax=1, interpolation="nearest")
  every = -(-n // 24)
  shown = list(range(0, n, every))
  labels = [str(names[i]).replace("$", r"\$") for i in shown]
  axis.set_xticks(shown, labels, rotation=90, fontsize=7)
  axis.set_yticks(shown, labels, fontsize=7)
  axis.set_xlabel("found", fontsize=8)
  axis.set_ylabel("true", fontsize=8)
  axis.set_title(title.replace("$", r"\$"), fontsize=9)
  if n <= 12:
    for i, j in np.ndindex(n, n):
      if matrix[i, j]:
        colour = "black" if shares[i, j] > 0.6 else "white"
        text = f"{matrix[i, j]:.0f}"
        axis.text(j, i, text, ha="center", va="center", fontsize=7, color=colour)
  fig.colorbar(image, ax=axis, shrink=0.8).set_label("share of the true class", fontsize=8)
  _save(fig, path)


def scatter(path, at, label, names, *, title=""):
  """One picture of points in the plane, a colour and a mark for each class.

  Args:
    path: the png to write.
    at: f32[N,2].
    label: int[N]; -1 is drawn grey, as "no class".
    names: of the classes.
    title: str above it all.
  """
  from matplotlib.figure import Figure

  fig = Figure(figsize=(7, 6), layout="constrained")
  axis = fig.subplots()
  for c in np.unique(label):
    name = str(names[c] if c >= 0 else "no class").replace("$", r"\$")
    style = dict(color=f"C{c % 10}", marker="osv^Dp"[c // 10 % 6]) if c >= 0 else dict(color="0.7")
    # A name that begins with "_" would not be shown.
    axis.scatter(*at[label == c].T, s=18, alpha=0.8, linewidths=0, label="\u200b" + name, **style)
  if len(label):
    axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
  axis.set(xticks=[], yticks=[])
  axis.set_title(title.replace("$", r"\$"), fontsize=10)
  _save(fig, path)
