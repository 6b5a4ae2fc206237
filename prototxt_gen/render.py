"""From a variant, a data set and options to the text of three prototxt files, checked and written.

The one Jinja environment. Every text is parsed with Caffe's schema, and the net's shapes are
inferred, before a file is touched.
"""

from __future__ import annotations

import json
from functools import cache
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
from prototxt_gen.options import Options
from prototxt_gen.recipes import DATABASES, Means, channel_means, schedule
from prototxt_gen.variants import Variant, build_model

OUTPUTS = Path("prototxt")
RUNS = "runs"


class Generated(NamedTuple):
    """The texts of one folder, named by the files they become, and the deploy net as a message."""

    folder: Path
    texts: dict[str, str]
    deploy: pb.NetParameter
    notes: tuple[str, ...]


def generate(
    variant: Variant, dataset: Dataset, options: Options, out: Path = OUTPUTS
) -> Generated:
    """The net, deploy net and solver of `variant` for a data set; nothing is written.

    Raises:
        GeneratorError: an option that does not fit the variant or the data set.
    """
    name = folder_name(variant, dataset, options)
    folder = out / name
    means = channel_means(dataset, options)
    net = net_text(variant, dataset, options, means)
    solver = _render(
        "solver.prototxt.j2",
        **_heading(variant, dataset, options),
        dataset=dataset,
        options=options,
        schedule=schedule(dataset, options.batch),
        net_path=(folder / "net.prototxt").as_posix(),
        snapshot_prefix=f"{RUNS}/{name}/{variant.name}",
    )
    deploy = net_text(variant, dataset, options)
    parse_text(net, pb.NetParameter(), str(folder / "net.prototxt"))
    parse_text(solver, pb.SolverParameter(), str(folder / "solver.prototxt"))
    message = parse_text(deploy, pb.NetParameter(), str(folder / "deploy.prototxt"))
    texts = {"net.prototxt": net, "deploy.prototxt": deploy, "solver.prototxt": solver}
    return Generated(folder, texts, message, means.notes)


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


def write(generated: Generated) -> list[Path]:
    """Write the files, each whole or not at all; raises OutputError."""
    paths = []
    for name, text in generated.texts.items():
        path = generated.folder / name
        with written_beside(path) as partial:
            partial.write_text(text, encoding="utf-8")
        paths.append(path)
    return paths


def folder_name(variant: Variant, dataset: Dataset, options: Options) -> str:
    """VARIANT_DATASET[_table][_w0.25]; the other options leave no trace in it."""
    table = "_table" if options.reading == "table" else ""
    width = f"_w{options.width:g}" if options.width != 1 else ""
    return f"{variant.name}_{dataset.name}{table}{width}"


def _heading(variant: Variant, dataset: Dataset, options: Options) -> dict[str, str]:
    """What the first comment of a file says: the net, and the command that wrote it."""
    command = f"python -m prototxt_gen {variant.name} --dataset {dataset.name}"
    return {
        "title": f"{variant.summary} ({variant.source})",
        # One line, whatever an option holds.
        "command": " ".join(f"{command} {options.as_arguments()}".split()),
    }


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
