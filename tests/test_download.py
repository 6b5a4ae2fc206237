"""converters.datasets.download, against a server on loopback that misbehaves in every known way."""

from __future__ import annotations

import gzip
import hashlib
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from converters.command_line.progress import TerminalReporter
from converters.datasets import download as module
from converters.datasets.archive import Archive
from converters.datasets.download import digest, download
from converters.datasets.registry import DATASETS
from converters.datasets.source import Source
from converters.errors import DataError, OutputError

CONTENT = np.random.RandomState(0).bytes(3_000_000)


class Server(ThreadingHTTPServer):
    """Serves CONTENT; `cuts` says after how many bytes the next responses break off."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.cuts: list[int] = []
        self.ranges: list[str | None] = []
        self.honours_ranges = True

    def archive(self, path: str = "file.bin", content: bytes = CONTENT) -> Archive:
        url = f"http://127.0.0.1:{self.server_port}/{path}"
        return Archive("file.bin", url, hashlib.md5(content).hexdigest())


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.ranges.append(wanted)
        if self.path == "/missing":
            self.send_error(404)
            return
        start = 0
        if wanted and self.server.honours_ranges:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        if start >= len(CONTENT):
            self.send_error(416)
            return
        body = CONTENT[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.server.cuts:
            body = body[: self.server.cuts.pop(0)]
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - likewise
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def test_a_plain_download_happens_once(server: Server, tmp_path: Path) -> None:
    path = download(server.archive(), tmp_path / "archives")
    assert path.read_bytes() == CONTENT
    assert download(server.archive(), tmp_path / "archives") == path
    assert server.ranges == [None]
    assert os.listdir(tmp_path / "archives") == ["file.bin"]


def test_a_cut_download_goes_on_where_it_was(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.cuts = [1_000_000, 500_000, 1]
    assert download(server.archive(), tmp_path, TerminalReporter()).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=1000000-", "bytes=1500000-", "bytes=1500001-"]
    assert capsys.readouterr().err.count("going on") == 3


def test_the_next_run_goes_on_too(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.bin.part").write_bytes(CONTENT[:2_000_000])
    assert download(server.archive(), tmp_path).read_bytes() == CONTENT
    assert server.ranges == ["bytes=2000000-"]


def test_a_whole_part_only_needs_its_name(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.bin.part").write_bytes(CONTENT)
    assert download(server.archive(), tmp_path).read_bytes() == CONTENT


def test_a_server_without_ranges_starts_again(server: Server, tmp_path: Path) -> None:
    server.honours_ranges = False
    (tmp_path / "file.bin.part").write_bytes(b"something else")
    assert download(server.archive(), tmp_path).read_bytes() == CONTENT


def test_no_progress_ends_with_the_way_out(server: Server, tmp_path: Path) -> None:
    server.cuts = [1000, 0, 0, 0]
    with pytest.raises(DataError, match=r"cannot be downloaded.*Put file\.bin .* --source FOLDER"):
        download(server.archive(), tmp_path)
    assert (tmp_path / "file.bin.part").read_bytes() == CONTENT[:1000]
    assert not (tmp_path / "file.bin").exists()
    assert server.cuts == []


def test_a_wrong_digest_is_removed(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"wrong digest: md5 .*, not .*Put file.bin"):
        download(server.archive(content=b"what was expected"), tmp_path)
    assert os.listdir(tmp_path) == []


def test_404_says_so_at_once(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"HTTP 404 Not Found. Put file.bin"):
        download(server.archive("missing"), tmp_path)
    assert len(server.ranges) == 1


def test_no_server_at_all(server: Server, tmp_path: Path) -> None:
    archive = server.archive()
    server.shutdown()
    server.server_close()
    with pytest.raises(DataError, match=r"cannot be downloaded.*--source FOLDER"):
        download(archive, tmp_path)


def test_a_silent_server_times_out(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TIMEOUT", 0.1)
    quiet = threading.Event()
    monkeypatch.setattr(Handler, "do_GET", lambda self: quiet.wait(5))
    with pytest.raises(DataError, match=r"cannot be downloaded .*timed out"):
        download(server.archive(), tmp_path)
    quiet.set()


def test_an_unwritable_folder(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match=r"cannot be written"):
        download(server.archive(), tmp_path / "file" / "archives")
    assert server.ranges == []


def test_digests_of_packed_files(tmp_path: Path) -> None:
    expected = hashlib.md5(CONTENT).hexdigest()
    packed = gzip.compress(CONTENT, 1)
    (tmp_path / "a.gz").write_bytes(packed)
    (tmp_path / "a").write_bytes(CONTENT)
    assert digest(tmp_path / "a.gz", unpacked=True) == expected
    assert digest(tmp_path / "a", unpacked=True) == expected
    assert digest(tmp_path / "a.gz") == hashlib.md5(packed).hexdigest()
    (tmp_path / "a.gz").write_bytes(packed[:-100])
    assert digest(tmp_path / "a.gz", unpacked=True) == "damaged"


def test_a_set_is_downloaded_where_no_source_is_given(server: Server, tmp_path: Path) -> None:
    """The whole way with MNIST's reader: not the official files, so their digest stops it."""
    mnist = DATASETS["mnist"]
    archive = mnist.archives[0]._replace(url=server.archive().url)
    with pytest.raises(DataError, match=r"wrong digest"):
        Source(None, tmp_path).find(archive)
    good = archive._replace(md5=hashlib.md5(CONTENT).hexdigest())
    assert Source(None, tmp_path).find(good) == tmp_path / archive.file


def test_every_archive_has_an_address_and_a_digest() -> None:
    archives = {a for dataset in DATASETS.values() for a in dataset.archives}
    assert len(archives) == 9
    for archive in archives:
        assert archive.url.endswith("/" + archive.file)
        assert archive.url.startswith("https://") or "ufldl.stanford.edu" in archive.url
        assert len(bytes.fromhex(archive.md5)) == 16
