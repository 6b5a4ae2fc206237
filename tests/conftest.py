"""Options, fixtures and markers that all tests share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

# Before torch is first imported: the tests' nets are too small to gain from more threads.
_PROCESSES = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
os.environ.setdefault("OMP_NUM_THREADS", str(max(1, min(4, (os.cpu_count() or 1) // _PROCESSES))))

# No deadline: the first example pays for imports. The same examples in every run.
settings.register_profile("tests", deadline=None, derandomize=True)
settings.load_profile("tests")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Where real data lies; the tests on it are skipped without.

    Write `--mnist=DIR`: pytest takes a DIR after a space for a folder of tests.
    """
    parser.addoption("--mnist", metavar="DIR", type=Path, help="folder of MNIST's four archives")
    parser.addoption(
        "--cifar10-jpeg", metavar="FILE", type=Path, help="CIFAR-10 as JPEG files, a .tar.gz"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `gpu` where there is no CUDA device; torch is imported only for them."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def mnist_dir(pytestconfig: pytest.Config) -> Path:
    """The folder given by --mnist."""
    return _given(pytestconfig, "--mnist", Path.is_dir)


@pytest.fixture(scope="session")
def cifar10_jpeg_file(pytestconfig: pytest.Config) -> Path:
    """The archive given by --cifar10-jpeg."""
    return _given(pytestconfig, "--cifar10-jpeg", Path.is_file)


def _given(config: pytest.Config, option: str, exists: Callable[[Path], bool]) -> Path:
    path = config.getoption(option)
    if path is None:
        pytest.skip(f"no {option} given")
    if not exists(path):
        pytest.fail(f"{option} {path}: not there")
    return Path(path).resolve()
