"""Tables for terminals: cells padded to the width of their columns."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from converters.reporting import escaped


def aligned(
    rows: Sequence[Sequence[str]],
    right: Collection[int] = (),
    gap: str = "  ",
    ruled: bool = False,
) -> Iterator[str]:
    """A line for each row; the columns whose numbers are in `right` end together.

    `ruled` draws a line under the first row.
    """
    # A layer may be called anything: what a terminal would obey shows as it is written in code.
    rows = [[escaped(cell) for cell in row] for row in rows]
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    rules = [["-" * width for width in widths]] if ruled else []
    for row in (*rows[:1], *rules, *rows[1:]):
        yield gap.join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
