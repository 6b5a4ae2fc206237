"""Everything about a net that the paper leaves open, each as one named option.

`__main__` makes the command line from the fields: a field is one option, its help and its default.
"""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass, field, fields
from typing import Any

from prototxt_gen import GeneratorError

READINGS = ("text", "table")
FILLERS = ("msra", "xavier")
MOST_WIDTH = 64


def _option(default: Any, about: str, choices: tuple[str, ...] = (), kind: Any = None) -> Any:
    metadata = {"about": about, "choices": choices, "kind": kind or type(default)}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Options:
    """The choices that the paper does not settle.

    Raises:
        GeneratorError: a value out of its range.
    """

    reading: str = _option("text", "is the 1×1 of a unit grouped? text: no; table: yes", READINGS)
    bu_s: str = _option("table", "BU_s: one 1×1 as in Table 1, or one a unit", ("table", "units"))
    unit_groups: int | None = _option(
        None, "groups of the units' convolutions, wherever they are grouped (8)", kind=int
    )
    adaption_groups: int | None = _option(
        None, "groups of the adaption units, wherever they are grouped (4)", kind=int
    )
    width: float = _option(1.0, "scales the channels, BU_s's group and the growths")
    bias: bool = _option(False, "give the convolutions a bias, before their BatchNorm")
    filler: str = _option("msra", "the convolutions' weight filler", FILLERS)
    dropout: float = _option(0.2, "ratio in BU_i and BU_e, after each unit; 0: no such layers")
    moving_average_fraction: float = _option(
        0.999, "of BatchNorm; Caffe's default averages over about 1,000 iterations"
    )
    mean: str = _option(
        "auto",
        "channel means: auto (lmdb/DATASET_mean.binaryproto if there, else constants), none, "
        "values as 125.3,123,113.9, or a .binaryproto file",
    )
    batch: int = _option(64, "images in a training batch")
    epochs: int | None = _option(
        None, "epochs of training; the rate still falls at 1/2 and 3/4 (the data set's)", kind=int
    )
    weight_decay: float = _option(1e-4, "weight decay")
    random_seed: int | None = _option(
        None, "the solver's seed; without, each run differs", kind=int
    )

    def __post_init__(self) -> None:
        for one in fields(self):
            choices, value = one.metadata["choices"], getattr(self, one.name)
            if choices and value not in choices:
                raise GeneratorError(f"{flag(one.name)} {value}: use one of {', '.join(choices)}")
        for name in ("unit_groups", "adaption_groups", "batch", "epochs"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise GeneratorError(f"{flag(name)} {value}: use a whole number from 1 up")
        for name in ("dropout", "moving_average_fraction"):
            if not 0 <= getattr(self, name) < 1:
                raise GeneratorError(
                    f"{flag(name)} {getattr(self, name)}: use a number from 0 to below 1"
                )
        if not 0 < self.width <= MOST_WIDTH:
            raise GeneratorError(
                f"--width {self.width}: use a number above 0, up to {MOST_WIDTH}, such as 0.25"
            )
        if not 0 <= self.weight_decay < math.inf:
            raise GeneratorError(f"--weight-decay {self.weight_decay}: use a number from 0 up")
        if self.random_seed is not None and not 0 <= self.random_seed < 2**63:
            raise GeneratorError(f"--random-seed {self.random_seed}: use 0 or a positive number")

    def as_arguments(self) -> str:
        """The command-line options that differ from the defaults, as `--width 0.25 --bias`."""
        words = []
        for one in fields(self):
            value = getattr(self, one.name)
            if value != one.default:
                words += [flag(one.name)] if value is True else [flag(one.name), str(value)]
        return shlex.join(words)


def flag(name: str) -> str:
    """The command-line option of a field: `--bu-s` for `bu_s`."""
    return "--" + name.replace("_", "-")
