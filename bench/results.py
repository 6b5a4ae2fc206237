"""Results as JSON: what was measured, where, with what; and two of them compared."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from bench.rows import Measure, Row, verdict
from converters.command_line.table import aligned
from converters.errors import DataError
from converters.formats.whole_files import written_beside

FORMAT = 1
FOLDER = Path(__file__).parent / "results"
PACKAGES = ("torch", "numpy", "protobuf", "lmdb", "opencv-python-headless")


@dataclass(frozen=True)
class Results:
    """A run of the bench.

    Args:
        date: when it began, UTC, ISO 8601.
        commit: the tree's, with -dirty after edits.
        machine: processor, cores, threads, memory in GiB, device, system.
        versions: of Python and packages.
        rows: by "GROUP:NAME" of what measured them.
        failed: why a measurement has no rows, by "GROUP:NAME".
    """

    date: str
    commit: str
    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    rows: dict[str, Sequence[Row]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    @classmethod
    def begin(cls, device: str) -> Self:
        """Where and with what is about to be measured."""
        from gmnet_pt.log.provenance import commit_of, describe_hardware, describe_versions

        versions = describe_versions(PACKAGES)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(now, commit_of(Path(__file__)), describe_hardware(device), versions, {}, {})

    @property
    def ok(self) -> bool:
        """Whether everything was measured and keeps its bound."""
        return not self.failed and all(row.ok for rows in self.rows.values() for row in rows)

    def heading(self) -> str:
        """Where it was measured, in one line."""
        machine = self.machine
        device = "" if machine["device"] == "cpu" else f", {machine['device']}"
        return (
            f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads"
            f"{device}; Python {self.versions['python']}, torch {self.versions['torch']}; "
            f"{self.date[:10]}, commit {self.commit[:12] or 'unknown'}"
        )


def default_path(results: Results) -> Path:
    """Where results go that are given no file."""
    moment = results.date[:19].replace(":", "")
    commit = results.commit[:12] + ("-dirty" if results.commit.endswith("-dirty") else "")
    return FOLDER / f"{moment}_{commit or 'unknown'}.json"


def write_results(results: Results, path: Path) -> None:
    """Write whole or not at all.

    Raises:
        OutputError: the file cannot be written.
    """
    with written_beside(path) as beside:
        beside.write_text(json.dumps({"format": FORMAT, **asdict(results)}, indent=1) + "\n")


def read_results(path: Path) -> Results:
    """Read what `write_results` wrote.

    Raises:
        DataError: it is no such file.
    """
    try:
        values = json.loads(path.read_text())
        if values.pop("format") != FORMAT:
            raise DataError(f"{path}: results of another format than {FORMAT}")
        values["rows"] = {
            name: [_row(one) for one in rows] for name, rows in values["rows"].items()
        }
        return Results(**values)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: no results of this bench ({error})") from error


def _row(values: dict[str, Any]) -> Row:
    for side in ("ours", "yardstick"):
        values[side] = Measure(tuple(values[side]["values"]))
    return Row(**values)


def compare(before: Results, after: Results) -> str:
    """Both runs' ratios, row by row, and what ours took, as a Markdown table.

    The change of the ratio is the fair one: both sides were measured on one machine in one run.
    """
    first, second = _by_name(before), _by_name(after)
    cells = [("", "name", "ours", "", "change", "ratio", "", "change", "ok", "")]
    for name in [*first, *(name for name in second if name not in first)]:
        old, new = first.get(name), second.get(name)
        cells.append(
            (
                "",
                name,
                f"{old.ours.median:.4g} {old.unit}" if old else "",
                f"{new.ours.median:.4g} {new.unit}" if new else "",
                _change(old.ours.median, new.ours.median) if old and new else "",
                f"{old.ratio:.3f}" if old else "",
                f"{new.ratio:.3f}" if new else "",
                _change(old.ratio, new.ratio) if old and new else "",
                verdict(new) if new else "not measured",
                "",
            )
        )
    lines = [f"{line.strip()}\n" for line in aligned(cells, gap=" | ", ruled=True)]
    head = f"before: {before.heading()}\nafter:  {after.heading()}\n"
    if before.machine != after.machine:
        head += "The machines differ: compare ratios alone.\n"
    return f"{head}\n{''.join(lines)}"


def _by_name(results: Results) -> dict[str, Row]:
    return {row.name: row for rows in results.rows.values() for row in rows}


def _change(old: float, new: float) -> str:
    return f"{100 * (new / old - 1):+.1f}%"
