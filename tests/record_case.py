"""Records of runs, written with a clock so that their times are known."""

from __future__ import annotations

import json
from pathlib import Path

from gmnet_pt.log.events import Event, Output, Scores, Start
from gmnet_pt.log.run_record import record_line


class Written:
    """A record with a clock, so that its times are known."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.lines: list[str] = []

    def put(self, *events: Event, after: float = 1.0) -> Written:
        for event in events:
            self.now += after
            values = json.loads(record_line(event)) | {"time": self.now}
            self.lines.append(json.dumps(values))
        return self

    def into(self, path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(self.lines) + "\n")
        return path


START = Start("n", "fixed", 0, 20, "lmdb/mnist_train", 1000, 50)


def accuracy(iteration: int, value: float) -> Scores:
    return Scores(iteration, 0, (Output("accuracy", value),))
