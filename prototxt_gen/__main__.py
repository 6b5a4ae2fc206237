"""`python -m prototxt_gen VARIANT`: write a net, its deploy net and its solver; or `list`, `audit`.

Exit status: 0; 1 an error in one line; 2 wrong usage.
"""

from __future__ import annotations

if __name__ == "__main__":  # before what takes long to import
    from converters.command_line import starting

    starting.begin()

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from converters.command_line.program import run_guarded
from converters.command_line.progress import tell
from converters.datasets.registry import DATASETS
from prototxt_gen.audit import audit, describe, net_cost
from prototxt_gen.options import Options, flag
from prototxt_gen.recipes import find_dataset
from prototxt_gen.render import OUTPUTS, generate, others, write
from prototxt_gen.variants import VARIANTS, find_variant


def main(argv: Sequence[str] | None = None) -> int:
    """Run what the first argument names: `list`, `audit`, or a variant to generate."""
    return run_guarded(lambda: _run(list(sys.argv[1:] if argv is None else argv)))


def _run(arguments: list[str]) -> int:
    commands = {"list": _list, "audit": _audit}
    if arguments and arguments[0] in commands:
        name = arguments[0]
        parser = argparse.ArgumentParser(prog=f"python -m prototxt_gen {name}")
        parser.parse_args(arguments[1:])
        return commands[name]()
    return _generate(_parser().parse_args(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m prototxt_gen",
        description="Write net.prototxt, deploy.prototxt and solver.prototxt of a GM-Net.",
        epilog="`list` describes the variants and data sets, `audit` prints what they cost.",
    )
    parser.add_argument("variant", metavar="VARIANT|list|audit", help=", ".join(VARIANTS))
    parser.add_argument(
        "--dataset", default="cifar10", metavar="D", help=f"{', '.join(DATASETS)}; default cifar10"
    )
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
    return parser


def _generate(args: argparse.Namespace) -> int:
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


def _list() -> int:
    print("Variants")
    for variant in VARIANTS.values():
        print(f"  {variant.name:29}{variant.summary} ({variant.source})")
    print("\nData sets")
    for one in DATASETS.values():
        size = f"{one.channels}x{one.size}x{one.size}"
        augmented = ", random crops and mirrored" if one.pad else ""
        print(
            f"  {one.name:15}{one.counts['train']:>7,} images {size}, {one.classes} classes, "
            f"{one.training.epochs} epochs from rate {one.training.base_lr:g}{augmented}"
        )
    return 0


def _audit() -> int:
    print(audit())
    return 0


if __name__ == "__main__":
    sys.exit(main())
