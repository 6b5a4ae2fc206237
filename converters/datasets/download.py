"""Downloads of official archives: with progress, resumed where they were cut, digest checked."""

from __future__ import annotations

import gzip
import hashlib
import os
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from http.client import HTTPException, HTTPResponse
from pathlib import Path

from converters.datasets.archive import Archive
from converters.errors import DataError, OutputError
from converters.formats.whole_files import destination, output_error
from converters.reporting import SILENT, Reporter

CHUNK = 1 << 20
ATTEMPTS_WITHOUT_PROGRESS = 3
TIMEOUT = 30.0  # seconds without a byte
LARGEST_UNPACKED = 1 << 28  # bytes: no official file that is compared unpacked has more


def download(archive: Archive, folder: Path, reporter: Reporter = SILENT) -> Path:
    """The path of `archive` in `folder`, downloaded unless it is there with the right digest.

    What has arrived stays in `NAME.part` when the connection breaks, and the next attempt (or the
    next run) goes on from there. The file gets its name only after its digest was checked.

    Raises:
        DataError: no network, an HTTP error, or another digest; says what to put where.
        OutputError: the folder cannot be written.
    """
    final = folder / archive.file
    if final.is_file() and digest(final, archive.unpacked) == archive.md5:
        return final
    place = destination(final)
    if not isinstance(place, Path):
        raise OutputError(f"{final}: is no file that can be replaced; remove it")
    part = place.with_name(f"{archive.file}.part")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        _fetch_whole(archive, part, reporter)
        found = digest(part, archive.unpacked)
        if found != archive.md5:
            part.unlink()
            raise DataError(
                f"{archive.url}: wrong digest: md5 {found}, not {archive.md5}; the file was "
                f"removed. {_way_out(archive)}"
            )
        os.replace(part, place)
    except OSError as error:
        raise output_error(final, error) from error
    return final


def digest(path: Path, unpacked: bool = False) -> str:
    """The MD5 of a file in hexadecimal; of its gzip-decompressed bytes if `unpacked`.

    A file that is not gzip is taken as it is; one cut or damaged inside gives "damaged".
    """
    md5 = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as handle:
        packed = unpacked and handle.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(path) if packed else open(path, "rb") as stream:
            while chunk := stream.read(CHUNK):
                md5.update(chunk)
                if packed and stream.tell() > LARGEST_UNPACKED:
                    return "of more bytes than any official file"
    except (EOFError, gzip.BadGzipFile, zlib.error):
        return "damaged"
    return md5.hexdigest()


def _fetch_whole(archive: Archive, part: Path, reporter: Reporter) -> None:
    """Fetch until the file is whole, going on after a cut as long as each attempt brings bytes."""
    idle = 0
    while True:
        before = _size(part)
        try:
            _fetch(archive.url, part, reporter)
            return
        except urllib.error.HTTPError as error:
            raise DataError(
                f"{archive.url}: HTTP {error.code} {error.reason}. {_way_out(archive)}"
            ) from error
        except (HTTPException, urllib.error.URLError, ConnectionError, TimeoutError) as error:
            idle = 0 if _size(part) > before else idle + 1
            reason = getattr(error, "reason", None) or error or type(error).__name__
            unreachable = isinstance(error, urllib.error.URLError)
            if unreachable or idle >= ATTEMPTS_WITHOUT_PROGRESS:
                raise DataError(
                    f"{archive.url}: cannot be downloaded ({reason}). {_way_out(archive)}"
                ) from error
            reporter.note(f"{archive.file}: cut after {_size(part)} bytes ({reason}); going on")


def _fetch(url: str, part: Path, reporter: Reporter) -> None:
    """One request for what `part` lacks; ConnectionError if it ends early."""
    have = _size(part)
    request = urllib.request.Request(url, headers={"User-Agent": "gmnet-caffe"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        response: HTTPResponse = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        # Nothing is left to send: either the file is whole, or it is not this file; the digest
        # decides, and a wrong one starts afresh.
        return
    with response:
        resumed = response.status == 206
        have = have if resumed else 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length is not None else None
        with open(part, "ab" if resumed else "wb") as handle:
            megabytes = None if total is None else -(-total // CHUNK)
            for chunk in reporter.progress(_chunks(response), part.stem, megabytes, "MiB"):
                handle.write(chunk)
    if total is not None and _size(part) < total:
        raise ConnectionError(f"{_size(part)} of {total} bytes")


def _chunks(response: HTTPResponse) -> Iterator[bytes]:
    while chunk := response.read1(CHUNK):
        yield chunk


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _way_out(archive: Archive) -> str:
    return (
        f"Put {archive.file} (md5 {archive.md5}{' when decompressed' if archive.unpacked else ''}) "
        "into a folder and give it as --source FOLDER"
    )
