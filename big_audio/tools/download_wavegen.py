"""Fetches music under Creative Commons: the list of a Hugging Face data set, its audio by yt-dlp.

  python -m big_audio.tools.download_wavegen --output-dir data/wavegen --limit 100 --jobs 4
  python -m big_audio.tools.download_wavegen --output-dir data/wavegen --dry-run
  python -c "from big_audio.tools import download_wavegen; download_wavegen.main()"

Needs the extra `download`, and ffmpeg for mp3 (`--format native` does without). DIR then holds

  audio/<id>.mp3   complete recordings; unfinished ones lie in .parts/ and are continued
  manifest.jsonl   a line each: id, title, author, url, licence, secs, sha256, bytes, path, error
  archive.txt      what is done, in yt-dlp's format; remove a recording's line
                   and its file to fetch it again
  list.jsonl       the list as the hub gave it; --refresh fetches it anew

The same command goes on where an earlier one ended, and tries failures again. Recordings above the
length cap are noted and not tried again; where the site does not tell the length, the cap is one on
bytes: 200 kB for each second, more than uncompressed sound of a CD has. It ends before the disk is
full (--min-free). Addresses that are not of YouTube are refused: the list is by someone else, and
could name any address that this machine can reach (--any-site lifts that).
Then: `big_audio.tools.prepare_audio`, or data=audio_dir. The licence asks for attribution: keep the
manifest beside the audio.
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait

from big_audio import clock
from big_audio.tools import hub, manifests

REPO = "WaveGenAI/youtube-cc-by-music"
LICENCE = "CC BY (as the list says)"
# Names of columns that lists of this kind use, best first.
COLUMNS = dict(
  id=("video_id", "id", "ytid", "youtube_id"),
  url=("url", "video_url", "webpage_url", "link"),
  title=("title", "name"),
  author=("uploader", "channel", "author", "channel_title"),
  licence=("license", "licence"),
  secs=("duration", "secs", "length", "duration_seconds"),
)
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_IN_URL = re.compile(r"(?:v=|youtu\.be/|/shorts/|/embed/)([A-Za-z0-9_-]{11})")
_TOO_LONG = "too long"
_BYTES_A_SEC = 200_000  # above 44.1 kHz, stereo, 16 bit
_HOSTS = ("youtube.com", "youtu.be", "youtube-nocookie.com")
# Nothing that parsers of addresses read differently: no user, port, backslash or blank.
_PLAIN_URL = re.compile(r"https?://([A-Za-z0-9.-]+)(?:[/?][A-Za-z0-9._~!$&'()*+,;=:@%/?-]*)?")
_IN_A_ROW = 20  # failures after which the next ones would fail too: no network, or refused


class TooLongError(Exception):
  """The recording is longer than the cap: by its `secs`, or by its bytes (then secs is None)."""

  def __init__(self, secs: float | None, cap: float):
    if secs is not None:
      what = f"{secs:.4g} s"
    else:
      size = _max_bytes(cap) / 1e6
      what = f"larger than max_filesize, {size:.4g} MB ({_BYTES_A_SEC // 1000} kB a second)"
    super().__init__(f"{_TOO_LONG}: {what}, the cap is {cap:.4g} s")
    self.secs, self.cap = secs, cap


def _max_bytes(cap):
  return round(cap * _BYTES_A_SEC)


def is_youtube(url: str) -> bool:
  """Whether an address is plainly one of YouTube."""
  found = _PLAIN_URL.fullmatch(url)
  host = found.group(1).lower() if found else ""
  return any(host == h or host.endswith(f".{h}") for h in _HOSTS)


def entries(rows) -> Iterator[dict]:
  """Rows of the list as {"id", "url", "title", "author", "licence", "secs"}; each id once.

  Raises:
    ValueError: rows without an id or a URL of a video.
  """
  seen = set()
  for number, row in enumerate(rows):
    lower = {k.lower(): v for k, v in row.items()}
    get = lambda key: next((lower[c] for c in COLUMNS[key] if lower.get(c) not in (None, "")), None)  # noqa: B023
    url, name = get("url"), get("id")
    if name is None and url:
      found = _IN_URL.search(str(url))
      name = found.group(1) if found else None
    if name is None:
      raise ValueError(
        f"row {number} of the list names no recording: expected one of the columns "
        f"{', '.join(COLUMNS['id'] + COLUMNS['url'])}, got {', '.join(row)}."
      )
    name = str(name)
    if name in seen:
      continue
    seen.add(name)
    secs = get("secs")
    yield dict(
      id=name,
      url=str(url or f"https://www.youtube.com/watch?v={name}"),
      title=get("title"),
      author=get("author"),
      licence=get("licence") or LICENCE,
      secs=float(secs) if isinstance(secs, (int, float)) else None,
    )


def read_list(output: pathlib.Path, repo: str, endpoint: str | None, refresh: bool) -> list[dict]:
  """The entries of the list: from output/list.jsonl, or fetched from the hub and kept there.

  Raises:
    ValueError: the list cannot be fetched, or has a row that names no recording.
  """
  path = output / "list.jsonl"
  if refresh or not path.is_file():
    columns = {c for names in COLUMNS.values() for c in names}
    rows = hub.read_split(repo, "train", columns, output / ".hub", endpoint)
    manifests.write(path, list(entries(rows)))
  return list(entries(manifests.read(path)))  # it may be hand-made


class Downloader:
  """Fetches one entry after the other into a folder; safe to call from several threads.

  Args:
    output: the folder.
    format: "mp3" (128 kbit/s) or "native" (as the site has it, m4a before others).
    max_secs: longer recordings raise TooLongError.
    rate: bytes a second of one download, or None.
    retries: of yt-dlp, for one recording.
    any_site: whether addresses that are not of YouTube are fetched too.
  """

  def __init__(
    self, output, *, format="mp3", max_secs=1800.0, rate=None, retries=3, any_site=False
  ):
    self._any_site = any_site
    self.output, self.format, self.max_secs = pathlib.Path(output), format, max_secs
    self._rate, self._retries = rate, retries
    self.stop = threading.Event()

  def __call__(self, entry: dict) -> dict:
    """The manifest row of an entry; raises what yt-dlp raises, TooLongError, or ValueError."""
    name = entry["id"]
    if not _ID.fullmatch(name):  # it becomes a file name
      raise ValueError(f"id {name!r}: expected 1 to 64 letters, digits, _ or -.")
    if not entry["url"].startswith(("http://", "https://")):
      raise ValueError(f"url {entry['url']!r}: expected http or https.")
    if not self._any_site and not is_youtube(entry["url"]):
      raise ValueError(f"url {entry['url']!r}: not of YouTube; --any-site fetches it all the same.")
    self._check_length(entry["secs"])
    parts = self.output / ".parts" / name
    parts.mkdir(parents=True, exist_ok=True)
    try:
      info = self._fetch(entry["url"], parts)
    except Exception as e:
      if isinstance(_cause(e), TooLongError):
        shutil.rmtree(parts)
      raise
    done = [p for p in parts.iterdir() if p.is_file() and p.suffix not in (".part", ".ytdl")]
    if len(done) != 1:
      raise ValueError(f"expected one file from yt-dlp, got {[p.name for p in done] or 'none'}.")
    secs = manifests.secs_of(done[0]) or info.get("duration")
    try:
      self._check_length(secs)
    except TooLongError:
      shutil.rmtree(parts)
      raise
    target = self.output / "audio" / f"{name}{done[0].suffix}"
    target.parent.mkdir(exist_ok=True)
    row = dict(
      id=name,
      title=info.get("title") if entry["title"] is None else entry["title"],
      author=info.get("uploader") if entry["author"] is None else entry["author"],
      url=entry["url"],
      licence=info.get("license") or entry["licence"],
      secs=None if secs is None else round(secs, 3),
      sha256=manifests.sha256(done[0]),
      bytes=done[0].stat().st_size,
      path=f"audio/{target.name}",
      error=None,
    )
    os.replace(done[0], target)
    shutil.rmtree(parts)
    return row

  def _check_length(self, secs):
    if secs is not None and secs > self.max_secs:
      raise TooLongError(secs, self.max_secs)

  def _fetch(self, url, parts):
    import yt_dlp

    def check(info, *, incomplete=False):
      if info.get("is_live"):
        raise ValueError("a live stream")
      self._check_length(info.get("duration"))

    most, log = _max_bytes(self.max_secs), _Log()

    def hook(state):
      if self.stop.is_set():  # Ctrl-C: the part stays and is continued next time
        raise KeyboardInterrupt
      # max_filesize acts on sizes that the server tells; others show while they grow.
      if (state.get("downloaded_bytes") or 0) > most:
        raise TooLongError(None, self.max_secs)

    options = dict(
      format="bestaudio/best" if self.format == "mp3" else "bestaudio[ext=m4a]/bestaudio/best",
      outtmpl=str(parts / "audio.%(ext)s"),
      quiet=True, no_warnings=True, noprogress=True, logger=log, noplaylist=True,
      match_filter=check, progress_hooks=[hook], continuedl=True, overwrites=False,
      retries=self._retries, extractor_retries=self._retries, socket_timeout=30, cachedir=False,
      max_filesize=most,
    )  # fmt: skip
    if not self._any_site:  # what YouTube's own pages may lead to included
      options["allowed_extractors"] = ["youtube"]
    if self._rate:
      options["ratelimit"] = self._rate
    if self.format == "mp3":
      options["postprocessors"] = [
        dict(key="FFmpegExtractAudio", preferredcodec="mp3", preferredquality="128")
      ]
    with yt_dlp.YoutubeDL(options) as ydl:
      info = ydl.extract_info(url) or {}
    if log.too_large:
      raise TooLongError(None, self.max_secs)
    return info


class _Log:
  """Takes yt-dlp's messages. An error arrives as an exception too, but a file that is too large
  does not: it is only told."""

  def __init__(self):
    self.too_large = False

  def debug(self, message):
    """Notes the one message that matters."""
    self.too_large |= "larger than max-filesize" in message

  info = warning = error = debug


def _reason(e: BaseException) -> str:
  """One line of an exception, without colours and advice for yt-dlp's own users."""
  text = re.sub(r"\x1b\[[0-9;]*m", "", str(e)).strip() or type(e).__name__
  return text.removeprefix("ERROR: ").splitlines()[0].split("; please report this")[0][:300]


def _cause(e: BaseException) -> BaseException:
  """What a match filter raised inside yt-dlp, else the exception itself."""
  seen = e
  while seen is not None:
    if isinstance(seen, TooLongError):
      return seen
    info = getattr(seen, "exc_info", None)
    seen = (info[1] if info and info[1] is not seen else None) or seen.__cause__
  return e


def check_space(folder, least: float) -> None:
  """Raises a ValueError where the disk of a folder has less than `least` bytes free."""
  free = shutil.disk_usage(folder).free
  if free < least:
    raise ValueError(
      f"the disk of {folder} has {free / 1e9:.3g} GB free, less than the {least / 1e9:.3g} GB of "
      "--min-free. What was begun has been finished; the same command goes on from here."
    )


def download(
  todo, downloader, manifest, archive, *, jobs=4, sleep=0.0, min_free=0.0
) -> tuple[int, int, int]:
  """Fetches entries in parallel: (done, too long, failed); every row is kept as it comes.

  Args:
    todo: list of entries.
    downloader: entry -> row.
    manifest: `manifests.Appender`.
    archive: path of archive.txt.
    jobs: downloads at a time.
    sleep: seconds between two starts.
    min_free: bytes that the disk must have before each start.

  Raises:
    ValueError: many failures in a row, or too little space.
  """
  progress = clock.Progress(len(todo))
  counts, in_a_row, waiting = dict(done=0, long=0, failed=0), 0, iter(todo)
  progress.phase("download", 0, len(todo))

  def finish(entry, future):
    nonlocal in_a_row
    try:
      row, kind = future.result(), "done"
    except Exception as e:  # one recording must not end the others; it is in the manifest
      e = _cause(e)
      kind = "long" if isinstance(e, TooLongError) else "failed"
      row = entry | dict.fromkeys(("sha256", "bytes", "path")) | dict(error=_reason(e))
      if kind == "long":
        row |= dict(secs=e.secs, cap_secs=e.cap)
      progress.message(f"{entry['id']}: {row['error']}")
    manifest.add(row)
    if kind == "done":
      with open(archive, "a") as f:
        f.write(f"youtube {entry['id']}\n")
    counts[kind] += 1
    in_a_row = in_a_row + 1 if kind == "failed" else 0
    progress.phase("download", sum(counts.values()), len(todo))
    if in_a_row >= _IN_A_ROW:
      raise ValueError(
        f"{in_a_row} downloads in a row have failed, the last with: {row['error']}. Is there a "
        "network, and does the site still answer? The same command goes on from here."
      )

  with ThreadPoolExecutor(jobs) as pool:
    running, full = {}, None
    try:
      for entry in waiting:
        try:
          check_space(downloader.output, min_free)
        except ValueError as e:
          full = e
          break
        running[pool.submit(downloader, entry)] = entry
        if sleep:
          time.sleep(sleep)
        while len(running) >= jobs:
          for future in wait(running, return_when=FIRST_COMPLETED).done:
            finish(running.pop(future), future)
      while running:
        for future in wait(running, return_when=FIRST_COMPLETED).done:
          finish(running.pop(future), future)
      if full:
        raise full
    except BaseException:
      downloader.stop.set()
      pool.shutdown(cancel_futures=True)
      raise
    finally:
      progress.close()
  return counts["done"], counts["long"], counts["failed"]


def plan(listed, output, *, limit, max_secs) -> tuple[list[dict], int]:
  """(entries to fetch, how many of the first `limit` are done or known to be too long)."""
  rows = {r["id"]: r for r in manifests.read(output / "manifest.jsonl", missing_ok=True)}
  archive, done = output / "archive.txt", set()
  if archive.is_file():
    done = {line.split()[-1] for line in archive.read_text().splitlines() if line.strip()}
  for name, row in rows.items():
    if row.get("path") and (output / row["path"]).is_file():
      done.add(name)
    # A cap that was raised since lets them through.
    if str(row.get("error")).startswith(_TOO_LONG):
      longer = row["secs"] > max_secs if row["secs"] else max_secs <= row["cap_secs"]
      done |= {name} if longer else set()
  wanted = listed[:limit] if limit else listed
  todo = [e for e in wanted if e["id"] not in done]
  return todo, len(wanted) - len(todo)


def _bytes(text):
  found = re.fullmatch(r"(\d+(?:\.\d+)?)([kKmMgG]?)", text)
  if not found or not float(found.group(1)):
    raise argparse.ArgumentTypeError(f"expected bytes such as 500k, 2M or 1G, got {text!r}")
  return float(found.group(1)) * {"": 1, "k": 1e3, "m": 1e6, "g": 1e9}[found.group(2).lower()]


def _positive(text):
  if not text.isdigit() or not int(text):
    raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {text!r}")
  return int(text)


def parser() -> argparse.ArgumentParser:
  """The command line."""
  p = argparse.ArgumentParser(
    prog="python -m big_audio.tools.download_wavegen", description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )  # fmt: skip
  p.add_argument(
    "--output-dir", default="~/datasets/wavegen", metavar="DIR", help="default: %(default)s"
  )
  p.add_argument("--format", choices=("mp3", "native"), default="mp3", help="mp3 needs ffmpeg")
  p.add_argument("--limit", type=_positive, help="only the first N of the list")
  p.add_argument("--jobs", type=_positive, default=4, help="downloads at a time (default 4)")
  p.add_argument("--rate", type=_bytes, help="bytes a second of all downloads together: 500k, 2M")
  p.add_argument("--sleep", type=float, default=0.0, help="seconds between two starts")
  p.add_argument("--max-mins", type=float, default=30.0, help="length cap (default 30)")
  p.add_argument(
    "--min-free", type=_bytes, default="2G", metavar="BYTES",
    help="ends before the disk has less (default %(default)s)",
  )  # fmt: skip
  p.add_argument(
    "--any-site", action="store_true",
    help="also addresses that are not of YouTube, local ones among them",
  )  # fmt: skip
  p.add_argument("--retries", type=int, default=3, help="of one recording (default 3)")
  p.add_argument("--dry-run", action="store_true", help="only say what would be fetched")
  p.add_argument("--refresh", action="store_true", help="fetch the list anew")
  p.add_argument("--repo", default=REPO, help="another list of this kind (default %(default)s)")
  p.add_argument("--endpoint", help="of the hub (default: HF_ENDPOINT, else huggingface.co)")
  # For tests and mirrors, with --any-site: where the audio of an id lies, in place of its url.
  p.add_argument("--url-template", help=argparse.SUPPRESS)
  return p


def main(argv=()) -> None:
  """Downloads; failures are listed, and then the exit status is 1.

  Args:
    argv: the flags; none of them is needed.
  """
  flags = parser().parse_args(list(argv))
  try:
    failed = _run(flags)
  except KeyboardInterrupt:
    sys.exit("download_wavegen: interrupted; the same command goes on from here.")
  except (ValueError, OSError, ImportError) as e:
    sys.exit(f"download_wavegen: {e}")
  if failed:
    sys.exit(1)


def _run(flags) -> int:
  output = pathlib.Path(flags.output_dir).expanduser()
  missing = [t for t in ("ffmpeg", "ffprobe") if not shutil.which(t)]
  if flags.format == "mp3" and missing and not flags.dry_run:
    raise ValueError(
      f"mp3 needs {' and '.join(missing)}, which PATH does not have. Install ffmpeg, or take "
      "--format native: the site's own format, without conversion."
    )
  if not flags.dry_run:
    hub.need("yt_dlp")
  output.mkdir(parents=True, exist_ok=True)
  listed = read_list(output, flags.repo, flags.endpoint, flags.refresh)
  if flags.url_template:
    listed = [{**e, "url": flags.url_template.format(id=e["id"])} for e in listed]
  cap = 60 * flags.max_mins
  todo, done = plan(listed, output, limit=flags.limit, max_secs=cap)
  print(f"{flags.repo}: {len(listed)} listed, {done} done before, {len(todo)} to fetch", flush=True)
  if flags.dry_run:
    for e in todo[:20]:
      print(f"  {e['id']}  {e['url']}  {e['title'] or ''}")
    if len(todo) > 20:
      print(f"  ... and {len(todo) - 20} more")
    return 0
  rate = flags.rate / flags.jobs if flags.rate else None
  downloader = Downloader(
    output, format=flags.format, max_secs=cap, rate=rate, retries=flags.retries,
    any_site=flags.any_site,
  )  # fmt: skip
  with manifests.Appender(output / "manifest.jsonl", key="id") as manifest:
    good, long, bad = download(
      todo, downloader, manifest, output / "archive.txt", jobs=flags.jobs, sleep=flags.sleep,
      min_free=flags.min_free,
    )  # fmt: skip
  print(f"{good} fetched, {long} too long, {bad} failed; see {output / 'manifest.jsonl'}")
  if bad:
    rows = manifests.read(output / "manifest.jsonl")
    for row in [r for r in rows if r["error"] and not r["error"].startswith(_TOO_LONG)][-10:]:
      print(json.dumps({k: row[k] for k in ("id", "url", "error")}), file=sys.stderr)
  return bad


if __name__ == "__main__":
  main(sys.argv[1:])
