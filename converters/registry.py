"""Entries by name, added where they are defined: layer types, readers, data sets, update rules."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from typing import Generic, TypeVar

from converters.errors import CaffeError
from converters.nearest import known_names

Entry = TypeVar("Entry")


class Registry(Mapping[str, Entry], Generic[Entry]):
    """A mapping that only grows, each name once; `kind` is what errors call an entry.

    With `package`, every module of that package is imported before the first look, and the entries
    are in the order of their names: a new entry is a new file there, and nothing lists it.
    """

    def __init__(self, kind: str, package: str = "") -> None:
        self.kind = kind
        self._package = package
        self._entries: dict[str, Entry] = {}

    def add(self, name: str) -> Callable[[Entry], Entry]:
        """A decorator, or a function to call, that enters its argument under `name`.

        Raises:
            ValueError: the name is taken.
        """

        def enter(entry: Entry) -> Entry:
            if name in self._entries:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._entries[name] = entry
            return entry

        return enter

    def find(self, name: str, error: Callable[[str], CaffeError]) -> Entry:
        """The entry called `name`; raises `error`, which names what may have been meant."""
        try:
            return self[name]
        except KeyError:
            raise error(f"unknown {self.kind} {name!r}{known_names(name, self)}") from None

    def _found(self) -> dict[str, Entry]:
        if self._package:
            package, self._package = importlib.import_module(self._package), ""
            for module in pkgutil.iter_modules(package.__path__):
                importlib.import_module(f"{package.__name__}.{module.name}")
            self._entries = dict(sorted(self._entries.items()))
        return self._entries

    def __getitem__(self, name: str) -> Entry:
        return self._found()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found())

    def __len__(self) -> int:
        return len(self._found())
