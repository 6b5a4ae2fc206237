"""What a run came from: the solver as it was resolved, our commit, the packages and the device."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path

from gmnet_pt.log.events import Run


def describe_run(solver_text: str, device: str, precision: str) -> Run:
    """The run's first event: the resolved solver, our commit, package versions, the device."""
    packages = ("gmnet-caffe", "torch", "numpy", "protobuf", "lmdb")
    versions = {"python": platform.python_version()}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = ""
    return Run(solver_text, commit_of(Path(__file__)), versions, device, precision)


def commit_of(file: Path) -> str:
    """The commit of the tree that tracks `file`, with -dirty after edits; empty without one."""
    try:
        # Inside somebody else's repository this file is not tracked.
        _git(file.parent, "ls-files", "--error-unmatch", file.name)
        return _git(file.parent, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return ""


def _git(folder: Path, *arguments: str) -> str:
    command = ("git", *arguments)
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=True, timeout=30
    )
    return done.stdout.strip()
