"""The option of Caffe's tools that says which kind of database is meant."""

from __future__ import annotations

import argparse

from converters.errors import DataError


def add_backend_option(parser: argparse.ArgumentParser) -> None:
    """Declare --backend: lmdb, the only one there is."""
    parser.add_argument(
        "--backend", type=_backend, default="lmdb", metavar="lmdb", help="lmdb, the only one here"
    )


def _backend(name: str) -> str:
    """`lmdb`; raises DataError for another, LevelDB above all."""
    if name != "lmdb":
        raise DataError(f"--backend {name}: databases are LMDB here; use --backend lmdb")
    return name
