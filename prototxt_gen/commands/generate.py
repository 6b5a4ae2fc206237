"""`gmnet generate VARIANT`: write net.prototxt, deploy.prototxt and solver.prototxt of a GM-Net.

`list` in place of VARIANT describes the variants and data sets, `audit` prints what they cost.
"""

from __future__ import annotations

import argparse
from dataclasses import fields
from functools import partial
from pathlib import Path

from converters.command_line.parser import CommandParser, completed
from converters.command_line.progress import tell
from converters.datasets.registry import DATASETS
from prototxt_gen.audit import audit, describe, net_cost
from prototxt_gen.options import Options, flag
from prototxt_gen.recipes import find_dataset
from prototxt_gen.render import OUTPUTS, generate, others, write
from prototxt_gen.variants import VARIANTS, find_variant

EXIT_STATUS = "exit status: 0 written; 1 an error in one line; 2 wrong usage"


def configure(parser: CommandParser) -> None:
    """Declare the command line."""
    add = parser.add_argument
    about = ", ".join(VARIANTS)
    completed(add("variant", metavar="VARIANT|list|audit", help=about), (*VARIANTS, *LISTINGS))
    about = f"{', '.join(DATASETS)}; default cifar10"
    completed(add("--dataset", default="cifar10", metavar="D", help=about), DATASETS)
    for option in fields(Options):
        choices, about = option.metadata["choices"], option.metadata["about"]
        if option.metadata["kind"] is bool:
            parser.add_argument(flag(option.name), action="store_true", help=about)
            continue
        default = "" if option.default is None else f"; default {option.default}"
        parser.add_argument(
            flag(option.name),
            type=option.metadata["kind"],
            default=option.default,
            metavar="|".join(choices) or option.name.split("_")[-1].upper(),
            help=f"{about}{default}".replace("%", "%%"),
        )
    parser.add_argument(
        "--out", type=Path, default=OUTPUTS, metavar="DIR", help=f"default: {OUTPUTS}"
    )
    parser.add_argument(
        "--force", action="store_true", help="replace files that other options made"
    )
    parser.add_argument(
        "--keep", action="store_true", help="leave files that the same command made as they are"
    )
    parser.afterwards(partial(_check_listing, parser))


def _check_listing(parser: CommandParser, args: argparse.Namespace) -> None:
    """Refuse options that a listing would not hear."""
    given = [name for name, value in vars(args).items() if value != parser.get_default(name)]
    if args.variant in LISTINGS and given != ["variant"]:
        parser.error(f"{args.variant} takes no options")


def run(args: argparse.Namespace) -> int:
    """Write the files of a variant, or print what `list` and `audit` say."""
    if args.variant in LISTINGS:
        print(LISTINGS[args.variant]())
        return 0
    variant, dataset = find_variant(args.variant), find_dataset(args.dataset)
    options = Options(**{option.name: getattr(args, option.name) for option in fields(Options)})
    generated = generate(variant, dataset, options, args.out)
    replaced = others(generated)
    whole = all((generated.folder / name).is_file() for name in generated.texts)
    if args.keep and whole and not replaced:
        print(f"{generated.folder}: kept, made by `{generated.command}`")
        return 0
    cost = net_cost(generated.deploy).total
    for path in write(generated, args.force):
        print(path)
    for command in dict.fromkeys(replaced.values()):
        tell(f"note: replaced what {command or 'somebody'} had made")
    for note in generated.notes:
        tell(f"note: {note}")
    print(f"{variant.name}, reading {options.reading}: {describe(variant, cost)}")
    return 0


def listing() -> str:
    """The variants and the data sets, a line each."""
    lines = ["Variants"]
    for variant in VARIANTS.values():
        lines.append(f"  {variant.name:29}{variant.summary} ({variant.source})")
    lines += ["", "Data sets"]
    for one in DATASETS.values():
        size = f"{one.channels}x{one.size}x{one.size}"
        augmented = ", random crops and mirrored" if one.pad else ""
        lines.append(
            f"  {one.name:15}{one.counts['train']:>7,} images {size}, {one.classes} classes, "
            f"{one.training.epochs} epochs from rate {one.training.base_lr:g}{augmented}"
        )
    return "\n".join(lines)


LISTINGS = {"list": listing, "audit": audit}
