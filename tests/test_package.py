"""What an installation carries and what an import costs, each seen from a fresh interpreter."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "cv2", "scipy", "matplotlib", "h5py", "sklearn")
TEMPLATES = sorted(path.name for path in (ROOT / "templates").glob("*.j2"))
PACKAGING = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def python(*arguments: str | Path, path: Path, cwd: Path) -> str:
    """Standard output of a new interpreter, in `cwd`, with `path` as PYTHONPATH."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("module", ["converters", "converters.prototxt.text", "prototxt_gen"])
def test_import_stays_light(module: str, tmp_path: Path) -> None:
    code = f"import sys, {module}; print(*(set({HEAVY!r}) & set(sys.modules)))"
    assert python("-c", code, path=ROOT, cwd=tmp_path).split() == []


def test_writing_a_prototxt_stays_light(tmp_path: Path) -> None:
    code = (
        "import runpy, sys\n"
        "sys.argv = ['prototxt_gen', 'bua', '--out', 'made']\n"
        "try: runpy.run_module('prototxt_gen', run_name='__main__')\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        f"print('heavy:', *(set({HEAVY!r}) & set(sys.modules)))"
    )
    assert python("-c", code, path=ROOT, cwd=tmp_path).splitlines()[-1].strip() == "heavy:"


@pytest.mark.parametrize(
    ("package", "names"),
    [
        ("converters", ["CaffeNet", "load_net", "save_caffemodel"]),
        ("gmnet_pt", ["Solver", "feeds"]),
    ],
)
def test_dir_shows_what_is_public(package: str, names: list[str], tmp_path: Path) -> None:
    code = f"import sys, {package} as p; print(*(set({names!r}) & set(dir(p)) & set(p.__all__)))"
    code += "; assert 'torch' not in sys.modules"
    assert sorted(python("-c", code, path=ROOT, cwd=tmp_path).split()) == names


def test_converters_names_are_resolved_on_first_use(tmp_path: Path) -> None:
    code = (
        "import sys, converters; before = 'torch' in sys.modules\n"
        "from converters import load_net, save_caffemodel\n"
        "print(before, callable(load_net), callable(save_caffemodel), 'torch' in sys.modules)"
    )
    assert python("-c", code, path=ROOT, cwd=tmp_path).split() == ["False", "True", "True", "True"]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is packaged: building in the checkout would leave its outputs there."""
    copy = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for folder in set(PACKAGING["package-dir"].values()):
        shutil.copytree(
            ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__", "*.pyc")
        )
    return copy


def pip(*arguments: str | Path, cwd: Path) -> None:
    """Run pip without the network: the build backend is the one installed here."""
    command = [sys.executable, "-m", "pip", *arguments, "--quiet", "--no-deps", "--no-index"]
    done = subprocess.run(
        [*command, "--no-build-isolation"], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def assert_works_from_elsewhere(python_path: Path, origin: Path, cwd: Path) -> None:
    """The packages come from below `origin`, and the generator finds its templates."""
    code = (
        "import site, sys; site.addsitedir(sys.argv[1])\n"
        "import converters, prototxt_gen, gmnet_pt, prototxt_gen.templates as templates\n"
        "import importlib.resources as resources\n"
        "print(*(m.__file__ for m in (converters, prototxt_gen, gmnet_pt, templates)), sep='\\n')\n"
        "print(*sorted(f.name for f in resources.files(templates).iterdir()"
        " if f.name.endswith('.j2')))\n"
        "sys.argv = ['prototxt_gen', 'bua', '--dataset', 'mnist', '--out', 'made']\n"
        "import contextlib, io, runpy\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        "    runpy.run_module('prototxt_gen', run_name='__main__')"
    )
    *files, names = python("-c", code, python_path, path=python_path, cwd=cwd).splitlines()
    assert len(files) == 4
    assert all(Path(file).resolve().is_relative_to(origin.resolve()) for file in files), files
    assert names.split() == TEMPLATES
    made = {path.name for path in (cwd / "made").rglob("*.prototxt")}
    assert made == {"net.prototxt", "deploy.prototxt", "solver.prototxt"}


def test_wheel_carries_templates_and_every_module(source: Path, tmp_path: Path) -> None:
    pip("wheel", source, "--wheel-dir", tmp_path, cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    unpacked = tmp_path / "unpacked"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(unpacked)
    for folder in set(PACKAGING["package-dir"].values()) - {"templates"}:
        modules = {path.relative_to(source) for path in (source / folder).rglob("*.py")}
        missing = {path for path in modules if not (unpacked / path).is_file()}
        assert not missing, f"packages in pyproject.toml lack {sorted(map(str, missing))}"
    beside = {path.name for path in (unpacked / "gmnet_pt" / "reproduce").glob("report.*")}
    assert beside == {"report.py", "report.html.j2", "report.css", "report.js"}
    assert len(TEMPLATES) == 3
    assert_works_from_elsewhere(unpacked, unpacked, tmp_path)


def test_editable_install_works_from_elsewhere(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "site"
    pip("install", "--target", target, "-e", source, cwd=tmp_path)
    assert_works_from_elsewhere(target, source, tmp_path)
