"""The registry that layer types, readers and data sets share, and what the command lines share."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from converters.command_line.table import aligned
from converters.errors import DataError
from converters.layers import LAYERS, Layer
from converters.layers.fillers import FILLERS
from converters.layers.registry import Family
from converters.prototxt.kind import is_solver
from converters.readers.reader import READERS
from converters.registry import Registry


def test_a_name_is_taken_once_and_the_first_entry_stays() -> None:
    numbers: Registry[int] = Registry("number")
    assert numbers.add("one")(1) == 1
    with pytest.raises(ValueError, match="number 'one' is registered twice"):
        numbers.add("one")(2)
    assert dict(numbers) == {"one": 1}


def test_an_unknown_name_is_an_error_that_lists_all() -> None:
    numbers: Registry[int] = Registry("number")
    for name in ("one", "two"):
        numbers.add(name)(len(numbers))
    assert numbers.find("two", DataError) == 1
    with pytest.raises(DataError, match=r"unknown number 'three'; known are one, two$"):
        numbers.find("three", DataError)


def test_a_new_file_in_the_package_is_a_new_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing lists the modules; names are in order, and looking twice imports once."""
    package = tmp_path / "entries_of_a_test"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "table.py").write_text(
        "from converters.registry import Registry\nFOUND = Registry('x', 'entries_of_a_test')\n"
    )
    for name in ("b", "a"):
        text = f"from entries_of_a_test.table import FOUND\nFOUND.add({name!r})({name!r})\n"
        (package / f"of_{'a' if name == 'b' else 'b'}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    from entries_of_a_test.table import FOUND  # type: ignore[import-not-found]

    assert "entries_of_a_test.of_a" not in sys.modules
    assert list(FOUND) == list(FOUND) == ["a", "b"]


@pytest.mark.parametrize(
    "again",
    [
        lambda: FILLERS.add("xavier")(lambda tensor, filler: tensor),
        lambda: Family("#ffffff")("ReLU")(type("Another", (Layer,), {})),
    ],
    ids=["filler", "layer type"],
)
def test_fillers_and_layer_types_are_registered_once(again: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match="is registered twice"):
        again()
    assert LAYERS["ReLU"].colour != "#ffffff"


def test_the_readers_are_those_of_caffes_data_layers() -> None:
    caffes = ["Data", "HDF5Data", "ImageData", "MemoryData", "WindowData"]
    forks = ["AnnotatedData", "DenseImageData", "ImageLabelmapData", "ImageSegData"]
    assert list(READERS) == sorted([*caffes, *forks])


@pytest.mark.parametrize(
    ("text", "solver"),
    [
        ('net: "n.prototxt"', True),
        ("# layer\nbase_lr: 0.1", True),
        ('net_param { name: "n" layer { name: "x" } }', True),
        ("debug_info: true max_iter: 3", True),
        ("debgu_info: true max_iter: 3", True),
        ('name: "max_iter"', False),
        ("# net: of layers\nlayers { layer { } }", False),
        ("debug_info: true layer { }", False),
        ('nmae: "x" layer { type: "ReLU" }', False),
        ("", False),
    ],
)
def test_a_solver_is_told_from_a_net_by_its_first_own_field(text: str, solver: bool) -> None:
    assert is_solver(text) == solver


def test_columns_are_aligned() -> None:
    rows = [("name", "n"), ("a", "10"), ("long name", "")]
    assert list(aligned(rows, right=(1,), ruled=True)) == [
        "name        n",
        "---------  --",
        "a          10",
        "long name",
    ]
