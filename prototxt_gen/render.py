"""From a variant, a data set and options to the text of three prototxt files, checked and written.

The one Jinja environment. Every text is parsed with Caffe's schema, and the net's shapes are
inferred, before a file is touched.
"""

from __future__ import annotations

import json
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import (
    BaseLoader,
    ChoiceLoader,
    Environment,
    FileSystemLoader,
    PackageLoader,
    StrictUndefined,
)

from converters.datasets.registry import Dataset
from converters.formats.whole_files import written_beside
from converters.proto import caffe_pb2 as pb
from converters.prototxt.text import parse_text
from prototxt_gen import GeneratorError
from prototxt_gen.options import Options
from prototxt_gen.recipes import DATABASES, Means, channel_means, schedule
from prototxt_gen.variants import Variant, build_model

OUTPUTS = Path("prototxt")
RUNS = "runs"
_PROGRAM = "python -m prototxt_gen"


class Generated(NamedTuple):
    """The texts of one folder, named by the files they become, and the deploy net as a message.

    `command` is what the files say of themselves: which variant, data set and options they are of.
    """

    folder: Path
    command: str
    texts: dict[str, str]
    deploy: pb.NetParameter
    notes: tuple[str, ...]


def generate(
    variant: Variant,
    dataset: Dataset,
    options: Options,
    out: Path = OUTPUTS,
    run: Path | None = None,
) -> Generated:
    """The net, deploy net and solver of `variant` for a data set; nothing is written.

    They belong into a folder of `out`, their training into one of runs/, each named after the
    options; with `run` all of it into that folder.

    Raises:
        GeneratorError: an option that does not fit the variant or the data set.
    """
    name = folder_name(variant, dataset, options)
    folder = run or out / name
    runs = run or Path(RUNS) / name
    means = channel_means(dataset, options)
    net = net_text(variant, dataset, options, means)
    solver = _render(
        "solver.prototxt.j2",
        **_heading(variant, dataset, options),
        dataset=dataset,
        options=options,
        schedule=schedule(dataset, options),
        net_path=(folder / "net.prototxt").as_posix(),
        snapshot_prefix=(runs / variant.name).as_posix(),
    )
    deploy = net_text(variant, dataset, options)
    parse_text(net, pb.NetParameter(), str(folder / "net.prototxt"))
    parse_text(solver, pb.SolverParameter(), str(folder / "solver.prototxt"))
    message = parse_text(deploy, pb.NetParameter(), str(folder / "deploy.prototxt"))
    texts = {"net.prototxt": net, "deploy.prototxt": deploy, "solver.prototxt": solver}
    return Generated(folder, _command(variant, dataset, options), texts, message, means.notes)


def net_text(
    variant: Variant, dataset: Dataset, options: Options, means: Means | None = None
) -> str:
    """A net as prototxt; without `means` the deploy net, which starts at an Input layer."""
    return _render(
        "gmnet.prototxt.j2",
        **_heading(variant, dataset, options),
        net=build_model(variant, dataset.channels, options),
        dataset=dataset,
        options=options,
        train_source=f"{DATABASES}/{dataset.train_database}",
        test_source=f"{DATABASES}/{dataset.test_database}",
        means=means,
        deploy=means is None,
    )


def write(generated: Generated, force: bool = False) -> list[Path]:
    """Write the files, each whole or not at all.

    Raises:
        GeneratorError: files of another command lie there, and `force` does not say to replace
            them; the folder's name holds only some of the options.
        OutputError: they cannot be written.
    """
    if not force:
        check_folder(generated)
    paths = []
    for name, text in generated.texts.items():
        path = generated.folder / name
        with written_beside(path) as partial:
            partial.write_text(text, encoding="utf-8")
        paths.append(path)
    return paths


def others(generated: Generated) -> dict[Path, str]:
    """The files in the folder that another command made, and that command; "" by hand."""
    paths = [generated.folder / name for name in generated.texts]
    made_by = {path: _command_of(path) for path in paths if path.is_file()}
    return {path: command for path, command in made_by.items() if command != generated.command}


def check_folder(generated: Generated) -> None:
    """Refuse a folder with files that another command made.

    Raises:
        GeneratorError: names both commands and the ways out.
    """
    for path, command in others(generated).items():
        raise GeneratorError(
            f"{path}: is there already, made {f'by `{command}`' if command else 'by hand'}; "
            f"`{generated.command}` would write another: --force replaces it, --out DIR puts the "
            f"new one elsewhere, `python -m gmnet_pt.train {path.with_name('net.prototxt')}` "
            "trains the old one"
        )


def _command_of(path: Path) -> str:
    """The command in a generated file's second line, "" if there is none."""
    try:
        with open(path, encoding="utf-8") as file:
            second = [line.strip() for line in islice(file, 2)][1:]
    except (OSError, UnicodeDecodeError):
        return ""
    command = "".join(second).removeprefix("# ")
    return command if command.startswith(_PROGRAM) else ""


def folder_name(variant: Variant, dataset: Dataset, options: Options) -> str:
    """VARIANT_DATASET[_table][_w0.25]; the other options show in the files' second line alone."""
    table = "_table" if options.reading == "table" else ""
    width = f"_w{options.width:g}" if options.width != 1 else ""
    return f"{variant.name}_{dataset.name}{table}{width}"


def _heading(variant: Variant, dataset: Dataset, options: Options) -> dict[str, str]:
    """What the first comment of a file says: the net, and the command that wrote it."""
    return {
        "title": f"{variant.summary} ({variant.source})",
        "command": _command(variant, dataset, options),
    }


def _command(variant: Variant, dataset: Dataset, options: Options) -> str:
    """In one line, whatever an option holds."""
    words = f"{_PROGRAM} {variant.name} --dataset {dataset.name} {options.as_arguments()}"
    return " ".join(words.split())


def _render(template: str, **values: Any) -> str:
    return _tidy(_environment().get_template(template).render(**values))


def _tidy(text: str) -> str:
    """Layers follow each other without blank lines; one stands before each comment of a part."""
    lines: list[str] = []
    for line in filter(str.strip, text.splitlines()):
        if line.startswith("#") and lines and not lines[-1].startswith("#"):
            lines.append("")
        lines.append(line)
    return "\n".join(lines) + "\n"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=_loader(), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["quoted"] = lambda text: json.dumps(text, ensure_ascii=False)
    environment.filters["number"] = lambda value: f"{value:.9g}"
    return environment


def _loader() -> BaseLoader:
    """The installed package of templates, or the folder beside the source in a plain checkout."""
    beside = FileSystemLoader(Path(__file__).parents[1] / "templates")
    try:
        return ChoiceLoader([PackageLoader("prototxt_gen.templates", ""), beside])
    except ModuleNotFoundError:
        return beside
