"""The walls between folders: imports go down the order below, in no circle, type hints included."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("converters", "prototxt_gen", "gmnet_pt")
ORDER = (
    "converters.errors",
    "converters.memory",
    "converters.raw_text",
    "converters.version",
    "converters.nearest",
    "converters.environment",
    "converters.registry",
    "converters.reporting",
    "converters.proto",
    "converters.formats",
    "converters.records",
    "converters.datasets",
    "converters.readers",
    "converters.layers",
    "converters.prototxt",
    "converters.net",
    "converters.export",
    "converters.command_line",
    "converters.commands",
    "converters",
    "prototxt_gen",
    "gmnet_pt.log",
    "gmnet_pt.solver",
    "gmnet_pt.options",
    "gmnet_pt",
)
"""From the bottom to the top; a module belongs to the longest of these names that its own has."""


def modules() -> dict[str, Path]:
    """Every module of the three packages by its dotted name."""
    found = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts).removesuffix(".__init__")] = path
    return found


MODULES = modules()


def imports(name: str) -> Iterator[tuple[str, str]]:
    """What a module imports of ours, anywhere in it: (module, the name taken from it or "")."""
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield (whole, "") if whole in MODULES else (node.module, alias.name)


def floor(name: str) -> int:
    """The place of a module's folder in ORDER."""
    fitting = [part for part in ORDER if name == part or name.startswith(f"{part}.")]
    return ORDER.index(max(fitting, key=len))


def test_no_module_imports_in_a_circle() -> None:
    graph = {name: {module for module, _ in imports(name)} for name in MODULES}
    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        raise AssertionError(" imports ".join(reversed(error.args[1]))) from error
    assert len(order) == len(MODULES) > 100


def test_imports_go_down_the_order() -> None:
    wrong = [
        f"{name} imports {module}"
        for name in MODULES
        for module, _ in imports(name)
        if floor(module) > floor(name)
    ]
    print("from the bottom to the top:", *ORDER, sep="\n  ")
    assert not wrong, "\n".join(wrong)


def test_packages_take_no_private_names_from_each_other() -> None:
    wrong = [
        f"{name} takes {module}.{taken}"
        for name in MODULES
        for module, taken in imports(name)
        if taken.startswith("_") and not taken.startswith("__") and module != name
    ]
    assert not wrong, "\n".join(wrong)


def test_the_converters_know_neither_the_generator_nor_the_trainer() -> None:
    for name in MODULES:
        own = name.split(".")[0]
        found = {module.split(".")[0] for module, _ in imports(name)}
        assert own != "converters" or found <= {"converters"}, name
        assert own != "prototxt_gen" or found <= {"converters", "prototxt_gen"}, name


def test_libraries_do_not_print() -> None:
    """Commands do; a library is given something to tell."""
    speaking = ("converters.command_line", "converters.commands", "prototxt_gen.commands")
    for name, path in MODULES.items():
        is_command = name.startswith(speaking) or name in COMMANDS
        calls = [
            node.lineno
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id == "print"
        ]
        assert is_command or not calls, f"{name} prints in line {calls[0]}"


COMMANDS = {
    name
    for name, path in MODULES.items()
    if (name.startswith("gmnet_pt.") and name.count(".") == 1) or name.endswith("__main__")
}
