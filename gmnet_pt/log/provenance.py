"""What a run came from: the solver as it was resolved, our commit, the packages and the device."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from gmnet_pt.log.events import Run


def describe_run(solver_text: str, device: str, precision: str) -> Run:
    """The run's first event: the resolved solver, our commit, package versions, the device."""
    versions = describe_versions(("gmnet-caffe", "torch", "numpy", "protobuf", "lmdb"))
    return Run(solver_text, commit_of(Path(__file__)), versions, device, precision)


def describe_versions(packages: Iterable[str]) -> dict[str, str]:
    """Python's version and that of each package, empty for one that is absent."""
    versions = {"python": platform.python_version()}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = ""
    return versions


def commit_of(file: Path) -> str:
    """The commit of the tree that tracks `file`, with -dirty after edits; empty without one."""
    try:
        # Inside somebody else's repository this file is not tracked.
        _git(file.parent, "ls-files", "--error-unmatch", file.name)
        return _git(file.parent, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return ""


def _git(folder: Path, *arguments: str) -> str:
    # Looking must not lock the index: somebody may be about to commit.
    command = ("git", "--no-optional-locks", *arguments)
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=True, timeout=30
    )
    return done.stdout.strip()


def describe_hardware(device: str) -> dict[str, Any]:
    """Processor, the cores and threads that we may use, memory in GiB, and the device's name."""
    import torch

    name = device
    if torch.device(device).type == "cuda":
        name = torch.cuda.get_device_name(device)
    return {
        "device": name,
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
    }


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
