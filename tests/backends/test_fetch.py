import dataclasses
import json
import logging
import re
import shutil
import threading
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from codexseg.backends.networks import download as fetch
from codexseg.backends.networks.download import fetch_mesmer
from codexseg.backends.networks.weights import KNOWN, resolve_weights
from codexseg.errors import BackendUnavailable, CodexsegError, InputError
from tests.helpers.networks import TOY_SAVED_MODEL, pack

SECRET = "s3cr3t-t0ken"
SIGNED = "X-Amz-Signature=s1gned"
TARBALL = "MultiplexSegmentation-9.tar.gz"


class DeepCell(BaseHTTPRequestHandler):
    """API and storage; each answers with (status, body), None closes the connection."""

    api = (200, b"")
    storage = (200, b"")
    promised: int | None = None
    asked: list[tuple[str, dict[str, str], bytes]]

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.asked.append((self.path, dict(self.headers), body))
        self._send(*self.api)

    def do_GET(self):
        self.asked.append((self.path, dict(self.headers), b""))
        self._send(*self.storage)

    def _send(self, status, body):
        if body is None:
            self.close_connection = True
            return
        # reason and body quote the request, as the real API does
        self.send_response(status, f"no {self.headers.get('X-Api-Key')}")
        self.send_header("Content-Length", str(self.promised or len(body)))
        self.send_header("Location", f"http://127.0.0.1:9/{SECRET}?{SIGNED}")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Cache of deepcell in a temporary home."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CODEXSEG_CACHE", str(tmp_path / "cache"))
    return tmp_path / ".deepcell" / "models"


@pytest.fixture
def content(tmp_path, monkeypatch):
    """Bytes of a tarball with the toy network, and its md5 as the published one."""
    md5 = pack(tmp_path / "published.tar.gz")
    monkeypatch.setitem(KNOWN, "mesmer", dataclasses.replace(KNOWN["mesmer"], md5=md5))
    return (tmp_path / "published.tar.gz").read_bytes()


@pytest.fixture
def server(content, folder, monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), DeepCell)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    root = f"http://127.0.0.1:{server.server_port}"
    answer = json.dumps({"url": f"{root}/storage?{SIGNED}", "size": "98.3 MB"})
    monkeypatch.setattr(DeepCell, "asked", [], raising=False)
    monkeypatch.setattr(DeepCell, "api", (200, answer.encode()))
    monkeypatch.setattr(DeepCell, "storage", (200, content))
    monkeypatch.setattr(fetch, "API", f"{root}/api/getData/")
    monkeypatch.setenv("DEEPCELL_ACCESS_TOKEN", SECRET)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield root
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def _no_secret_in_output(caplog, capfd):
    caplog.set_level(logging.DEBUG)
    logging.getLogger("urllib3").setLevel(logging.DEBUG)
    yield
    output = caplog.text + "".join(capfd.readouterr())
    assert SECRET not in output
    assert SIGNED not in output


def failure(kind=BackendUnavailable):
    """Fetch in vain; return the message, once nothing secret is found around it."""
    with pytest.raises(CodexsegError) as caught:
        fetch_mesmer()
    assert type(caught.value) is kind
    error, around = caught.value, []
    while error is not None:
        around += [str(error), repr(error), repr(vars(error))]
        # as tools show it that print the values of variables: the frame of this test too
        trace = traceback.TracebackException.from_exception(error, capture_locals=True)
        around += list(trace.format())
        error = error.__cause__ or error.__context__
    text = "".join(around)
    assert SECRET not in text
    assert SIGNED not in text
    return str(caught.value)


def left_over(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_tarball_is_fetched_into_the_cache_of_deepcell(server, folder, content):
    messages = []
    path = fetch_mesmer(messages.append)
    assert path == folder / TARBALL
    assert path.read_bytes() == content
    assert left_over(folder) == ["MultiplexSegmentation", TARBALL]
    unpacked = folder / "MultiplexSegmentation"
    assert (
        resolve_weights(unpacked).digest
        == resolve_weights(TOY_SAVED_MODEL).digest
        == resolve_weights(None).digest
    )
    assert messages == [f"Licence: {KNOWN['mesmer'].licence}"]
    (post, headers, body), (get, storage_headers, _) = DeepCell.asked
    assert (post, get) == ("/api/getData/", f"/storage?{SIGNED}")
    assert body == b"s3_key=models%2FMultiplexSegmentation-9.tar.gz"
    assert headers["X-Api-Key"] == SECRET
    assert "X-Api-Key" not in storage_headers


def test_existing_tarball_needs_neither_token_nor_network(folder, content, monkeypatch):
    monkeypatch.delenv("DEEPCELL_ACCESS_TOKEN", raising=False)
    monkeypatch.setattr(fetch, "API", "http://127.0.0.1:9/")
    folder.mkdir(parents=True)
    (folder / TARBALL).write_bytes(content)
    messages = []
    for _ in range(2):
        assert fetch_mesmer(messages.append) == folder / TARBALL
        assert left_over(folder) == ["MultiplexSegmentation", TARBALL]
    assert messages == []


def test_tarball_with_another_md5_is_replaced_with_its_folder(server, folder, content):
    shutil.copytree(TOY_SAVED_MODEL, folder / "MultiplexSegmentation" / "older")
    (folder / TARBALL).write_bytes(content[:-10])
    messages = []
    fetch_mesmer(messages.append)
    assert (
        messages[0] == f"{folder / TARBALL} has another md5 than MultiplexSegmentation-9."
    )
    assert messages[-1] == f"{folder / TARBALL} was replaced."
    assert (folder / TARBALL).read_bytes() == content
    assert not (folder / "MultiplexSegmentation" / "older").exists()
    assert left_over(folder) == ["MultiplexSegmentation", TARBALL]


def test_missing_token_is_reported_with_the_address(server, folder, monkeypatch):
    monkeypatch.setenv("DEEPCELL_ACCESS_TOKEN", " ")
    text = failure()
    assert "DEEPCELL_ACCESS_TOKEN is not set" in text
    assert "https://users.deepcell.org" in text
    assert DeepCell.asked == []


@pytest.mark.parametrize("behind", ["\nX-Evil: 1", "\u2026", " x"])
def test_invalid_token_is_not_sent(server, monkeypatch, behind):
    monkeypatch.setenv("DEEPCELL_ACCESS_TOKEN", SECRET + behind)
    assert "characters that no access token has" in failure()
    assert DeepCell.asked == []


def test_line_end_after_the_token_is_removed(server, monkeypatch):
    monkeypatch.setenv("DEEPCELL_ACCESS_TOKEN", f"{SECRET}\n")
    fetch_mesmer()
    assert DeepCell.asked[0][1]["X-Api-Key"] == SECRET


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (
            403,
            f'{{"detail": "{SECRET}"}}'.encode(),
            r"refuses the token.*\(403 Forbidden\)",
        ),
        (
            401,
            SECRET.encode(),
            r"refuses the token.*\(401 Unauthorized\).*Create a new one",
        ),
        (404, b'{"error": "Key not found"}', r"API has no models/Multiplex.*\(404 Not"),
        (500, SECRET.encode(), "The DeepCell API answered 500 Internal Server Error"),
        (302, b"", "The DeepCell API answered 302 Found"),
        (599, b"", "The DeepCell API answered 599"),
        (200, b"<html>", "The DeepCell API answered 200 OK. Expected the file"),
        (200, b"[1]", "The DeepCell API answered 200 OK"),
        (200, b'{"url": 3}', "The DeepCell API answered 200 OK"),
        (
            200,
            f'{{"url": "nonsense://{SIGNED}"}}'.encode(),
            r"InvalidSchema\)\. Check the n",
        ),
        (200, None, r"cannot be reached, or the connection broke \(ConnectionError"),
    ],
)
def test_unexpected_answers_of_the_api_are_reported(
    server, folder, monkeypatch, status, body, words
):
    monkeypatch.setattr(DeepCell, "api", (status, body))
    assert re.search(words, failure())
    assert left_over(folder) == []
    assert all(path == "/api/getData/" for path, _, _ in DeepCell.asked)


def test_unexpected_answers_of_the_storage_are_reported(server, folder, monkeypatch):
    monkeypatch.setattr(DeepCell, "storage", (403, SIGNED.encode()))
    assert "DeepCell's storage answered 403 Forbidden" in failure()
    monkeypatch.setattr(DeepCell, "storage", (200, None))
    assert "the connection broke (ConnectionError" in failure()
    assert left_over(folder) == []


def test_missing_network_is_reported(content, folder, monkeypatch):
    monkeypatch.setenv("DEEPCELL_ACCESS_TOKEN", SECRET)
    monkeypatch.setattr(fetch, "API", f"http://127.0.0.1:9/{SIGNED}")
    assert "(ConnectionError: Connection refused)" in failure()
    assert left_over(folder) == []


def test_truncated_download_is_removed(server, folder, content, monkeypatch):
    monkeypatch.setattr(DeepCell, "storage", (200, content[:1000]))
    monkeypatch.setattr(DeepCell, "promised", len(content))
    monkeypatch.setattr(
        DeepCell,
        "api",
        (200, DeepCell.api[1].ljust(len(content))),  # as many were promised
    )
    assert "ChunkedEncodingError" in failure()
    assert left_over(folder) == []


def test_download_with_another_md5_is_removed(server, folder, content, monkeypatch):
    monkeypatch.setattr(DeepCell, "storage", (200, content[::-1]))
    text = failure(InputError)
    assert f"expected {KNOWN['mesmer'].md5}; it was removed" in text
    assert left_over(folder) == []


def test_existing_files_stay_after_a_failed_fetch(server, folder, content, monkeypatch):
    folder.mkdir(parents=True)
    (folder / TARBALL).write_bytes(content[:-10])
    monkeypatch.setattr(DeepCell, "storage", (500, b""))
    failure()
    assert (folder / TARBALL).read_bytes() == content[:-10]
    messages = []
    with pytest.raises(BackendUnavailable):
        fetch_mesmer(messages.append)
    assert "replaced" not in "".join(messages)


def test_read_only_home_is_reported(server, tmp_path):
    (tmp_path / ".deepcell").write_text("")
    assert "cannot be written" in failure(InputError)


def test_loggers_are_enabled_after_the_download(server):
    fetch_mesmer()
    assert not logging.getLogger("urllib3.connectionpool").disabled


def test_published_file_is_that_of_deepcell():
    known = KNOWN["mesmer"]
    assert known.file_name == TARBALL
    assert known.md5 == "a1dfbce2594f927b9112f23a0a1739e0"
    assert "non-commercial" in known.licence
