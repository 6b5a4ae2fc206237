"""`python -m converters export NET --weights W OUT`: a net on its way out of Caffe.

OUT is a .onnx file, a .pt2 of torch.export, a .safetensors of the blobs alone, or a .py: a module
of torch with one line a layer, and the blobs in a .safetensors beside it. The net is that of phase
TEST. What was written is run beside the net; where it differs nothing is left.
"""

from __future__ import annotations

import argparse

from converters.command_line.net_options import (
    add_python_option,
    add_shape_option,
    add_state_options,
    net_choice,
)
from converters.command_line.progress import tell
from converters.command_line.suffix import form_of
from converters.layers.registry import Shape

FORMS = (".onnx", ".pt2", ".safetensors", ".py")


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    add = parser.add_argument
    add("net", metavar="NET", help="a net prototxt, of any age; the tops of data layers are inputs")
    add("out", metavar="OUT", help=f"a {', '.join(FORMS)} file")
    add("--weights", required=True, metavar="W", help="caffemodels, comma-separated")
    until = "export what this blob is made of, and no more; repeatable"
    add("--until", action="append", default=[], metavar="BLOB", help=until)
    add_state_options(parser)
    add_shape_option(parser)
    add_python_option(parser)


def run(args: argparse.Namespace) -> int:
    """Write the file, and say how close it comes."""
    form = form_of(args.out, FORMS)

    from converters.export.comparison import LIMIT
    from converters.export.forms import export
    from converters.export.part import part_of
    from converters.net.caffe_net import build_net

    net = build_net(net_choice(args))
    part = part_of(net.plan, args.until)
    report = export(net, part, args.out, form)
    for note in report.notes:
        tell(f"note: {note}")
    free = report.free

    def blobs(shapes: dict[str, Shape]) -> str:
        return ", ".join(f"{name} {shape}" for name, shape in shapes.items())

    print(
        f"{args.out}: {len(part.layers)} layers, {blobs(part.input_shapes())} → "
        f"{blobs(part.output_shapes())}"
    )
    sizes = " and ".join(map(str, report.difference.sizes))
    of = f"batches of {sizes}; any size" if free.names else "the batch is fixed"
    print(
        f"largest difference {report.difference.largest:.1e} of the largest value "
        f'(output "{report.difference.output}"; {of}); the limit is {LIMIT:.0e}'
    )
    return 0
