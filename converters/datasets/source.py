"""Where a set's files come from: `--source`, an earlier download, or the official address."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from converters.datasets.archive import Archive
from converters.errors import DataError
from converters.reporting import SILENT, Reporter


@dataclass(frozen=True)
class Source:
    """Finds files: in `local` (a folder or one file) if given, else downloaded into `downloads`.

    `reporter` is told how it goes, here and while the files are read.
    """

    local: Path | None
    downloads: Path
    reporter: Reporter = SILENT
    _checked: set[Path] = field(default_factory=set, init=False, repr=False, compare=False)

    def find(self, archive: Archive, instead: Iterable[str] = ()) -> Path:
        """The path of `archive`, or of one of the names that may stand `instead` of it.

        A local copy may be anything of the right format: another digest is told, not refused. A
        downloaded file always has the official digest.

        Raises:
            DataError: not in `local`; or it cannot be downloaded, or has the wrong digest.
        """
        # Here: urllib alone takes longer to import than the generator, which lists the sets, may.
        from converters.datasets.download import digest, download

        if self.local is None:
            return download(archive, self.downloads, self.reporter)
        path = self.local_path((archive.file, *instead))
        names = (archive.file, archive.file.removesuffix(".gz"))
        if path.is_file() and path.name in names and path not in self._checked:
            self._checked.add(path)  # once: both splits may be in one archive
            found = digest(path, archive.unpacked)
            if found != archive.md5:
                self.reporter.note(
                    f"note: {path} is not the official file (md5 {found}, not {archive.md5})"
                )
        return path

    def local_path(self, names: Iterable[str]) -> Path:
        """The first of `names` in `local`; `local` itself if it is a file."""
        assert self.local is not None
        if self.local.exists() and not (self.local.is_file() or self.local.is_dir()):
            raise DataError(f"--source {self.local}: neither a regular file nor a folder")
        if self.local.is_file():
            return self.local
        names = tuple(names)
        for name in names:
            path = self.local / name
            if path.is_file() or path.is_dir():
                return path
            if path.exists():
                raise DataError(f"{path}: neither a regular file nor a folder")
        if not self.local.exists():
            raise DataError(f"--source {self.local}: no such file or folder")
        raise DataError(f"--source {self.local}: has none of {', '.join(names)}")
