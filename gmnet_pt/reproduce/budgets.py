"""How long we train: the paper's recipe, or a shorter one that is never shown as the paper's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from converters.errors import SolverError


@dataclass(frozen=True, eq=False)
class Budget:
    """A width and a number of epochs.

    `epochs` by data set; a set that is not in it has the recipe's. `fraction` is BatchNorm's
    moving_average_fraction: the averages must forget within the run's last quarter. `instead` are
    the data sets that stand in for the paper's. `kept`: results are kept under results/.
    """

    name: str
    about: str
    width: float = 1.0
    epochs: Mapping[str, int] = field(default_factory=dict)
    fraction: float = 0.999
    instead: Mapping[str, str] = field(default_factory=dict)
    kept: bool = True


_PAPERS = ("mnist", "cifar10", "cifar10_plus", "cifar100", "cifar100_plus", "svhn")

BUDGETS = {
    budget.name: budget
    for budget in (
        Budget("full", "the paper's epochs at full width"),
        Budget(
            "short",
            "a quarter of the width, a few epochs",
            width=0.25,
            # SVHN's one epoch has as many images as ten of CIFAR's.
            epochs={**dict.fromkeys((*_PAPERS, "cifar10_jpeg"), 10), "mnist": 5, "svhn": 1},
            fraction=0.99,
        ),
        Budget(
            "smoke",
            "an eighth of the width, three epochs of scikit-learn's digits: it shows that the "
            "machinery works, and nothing about the paper",
            width=0.125,
            epochs={"digits": 3},
            fraction=0.9,
            instead=dict.fromkeys(_PAPERS, "digits"),
            kept=False,
        ),
    )
}


def find_budget(name: str) -> Budget:
    """The budget called `name`; raises SolverError that lists all."""
    try:
        return BUDGETS[name]
    except KeyError:
        raise SolverError(f"budget {name}: use one of {', '.join(BUDGETS)}") from None
