"""A web server on 127.0.0.1 that plays the hub and the site with the audio; nothing else is met."""

import hashlib
import json
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "c" * 40


class Server:
  """Serves `files` (audio, by path) and `table` (files of a data set "own/list").

  Attributes:
    requests: [(method, path, Range header or None)] in order.
    stall: {path: bytes after which an answer stops until `release` is set}.
    refuse: {path: status}.
    chunked: paths whose answers do not tell their length.
  """

  def __init__(self):
    self.files, self.table, self.requests, self.stall, self.refuse = {}, {}, [], {}, {}
    self.chunked = set()
    self.stalled, self.release = threading.Event(), threading.Event()
    owner = self

    class Handler(BaseHTTPRequestHandler):
      protocol_version = "HTTP/1.1"

      def log_message(self, *_):
        pass

      def do_GET(self):
        owner.answer(self, body=True)

      def do_HEAD(self):
        owner.answer(self, body=False)

    self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    self._http.daemon_threads = True
    self._http.handle_error = lambda *_: None  # a client that goes away is no news
    self.url = f"http://127.0.0.1:{self._http.server_port}"
    threading.Thread(target=self._http.serve_forever, daemon=True).start()

  def close(self):
    self.release.set()
    self._http.shutdown()
    self._http.server_close()

  def paths(self, method="GET"):
    return [p for m, p, _ in self.requests if m == method]

  def answer(self, h, body):
    path = h.path.split("?")[0]
    self.requests.append((h.command, path, h.headers.get("Range")))
    if path in self.refuse:
      return self._send(h, b"", status=self.refuse[path])
    if path == "/":
      return self._send(h, b"hello", body=body)
    if path.startswith("/api/datasets/own/list/tree/"):
      rows = [dict(type="file", oid="0", size=len(d), path=n) for n, d in self.table.items()]
      return self._send(h, json.dumps(rows).encode(), kind="application/json", body=body)
    found = re.fullmatch(r"/datasets/own/list/resolve/[^/]+/(.+)", path)
    if found and found.group(1) in self.table:
      data = self.table[found.group(1)]
      extra = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": COMMIT}
      return self._send(h, data, body=body, **extra)
    if path in self.files:
      return self._send(h, self.files[path], kind="audio/wav", body=body, ranges=True, path=path)
    return self._send(h, b"", status=404)

  def _send(self, h, data, *, status=200, kind="application/octet-stream", body=True, ranges=False,
            path="", **extra):  # fmt: skip
    first = re.match(r"bytes=(\d+)-", h.headers.get("Range") or "")
    first = int(first.group(1)) if ranges and first else 0
    h.send_response(206 if first else status)
    if first:
      h.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
    if path in self.chunked:  # the end of the connection is the end of the file
      h.close_connection = True
      h.send_header("Connection", "close")
    else:
      h.send_header("Content-Length", str(len(data) - first))
    h.send_header("Content-Type", kind)
    h.send_header("Accept-Ranges", "bytes")
    for k, v in extra.items():
      h.send_header(k, v)
    h.end_headers()
    if not body:
      return
    try:
      stop = self.stall.get(path)
      if stop is not None and not first and not self.release.is_set():
        h.wfile.write(data[:stop])
        h.wfile.flush()
        self.stalled.set()
        self.release.wait(60)
        h.wfile.write(data[stop:])
      else:
        h.wfile.write(data[first:])
    except OSError:
      pass  # the client is gone


def forbid_the_world(monkeypatch):
  """Any look-up or connection beyond loopback fails the test."""
  real_connect, real_lookup = socket.socket.connect, socket.getaddrinfo

  def connect(self, address):
    if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1"):
      raise AssertionError(f"connects to {address}")
    return real_connect(self, address)

  def lookup(host, *a, **kw):
    if host not in ("127.0.0.1", "::1", "localhost", None):
      raise AssertionError(f"looks up {host}")
    return real_lookup(host, *a, **kw)

  monkeypatch.setattr(socket.socket, "connect", connect)
  monkeypatch.setattr(socket, "getaddrinfo", lookup)
  for name in ("http_proxy", "https_proxy", "all_proxy"):
    monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv(name.upper(), raising=False)
