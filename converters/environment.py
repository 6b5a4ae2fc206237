"""Where a layer stands: the net's file and folder, the phase, and what the net may run.

Layers (`converters.layers`) and what reads their files (`converters.readers`) are given one.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from converters.raw_text import file_name


def find_file(path: str | Path, folder: str | Path) -> Path:
    """A path inside a prototxt: from the working directory, as in Caffe, then from `folder`.

    Where it is in neither, the path as it stands.
    """
    named = file_name(str(path))
    direct, beside = Path(named), Path(folder) / named
    return beside if not direct.exists() and beside.exists() else direct


class Environment(NamedTuple):
    """What a layer may know about the net it stands in; `source` names the net in errors.

    `may_write` is False where the net is only looked at: its layers write no files then.
    """

    source: str
    phase: str
    folder: str = "."
    allow_python_layers: bool = False
    may_write: bool = True

    def find(self, path: str | Path) -> Path:
        """The file that a path of the prototxt means (`find_file`)."""
        return find_file(path, self.folder)
