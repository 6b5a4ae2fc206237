"""What a prototxt is: a net or a solver, a deploy net: nothing in it says so but its fields."""

from __future__ import annotations

import re

from converters.proto import caffe_pb2 as pb
from converters.prototxt.strangers import COMMENT_OR_STRING, without_strings

_WORD = re.compile(r"[A-Za-z_]\w*")
_NET = frozenset(pb.NetParameter.DESCRIPTOR.fields_by_name)
_SOLVER = frozenset(pb.SolverParameter.DESCRIPTOR.fields_by_name)


def is_solver(text: str) -> bool:
    """Whether the first field that only one of the two messages has is the solver's.

    So a misspelt field leads to the error of the message that was meant.
    """
    return _first_telling(text) in _SOLVER


def is_net(text: str) -> bool:
    """Likewise, the net's; a text without any such field is neither."""
    return _first_telling(text) in _NET


def _first_telling(text: str) -> str:
    """The first word that is a field of one of the two alone; empty where there is none."""
    words = _WORD.findall(without_strings(text))
    return next((word for word in words if (word in _NET) != (word in _SOLVER)), "")


def is_deploy(net: pb.NetParameter) -> bool:
    """Whether a net only computes: its inputs are given, nothing reads data and nothing is a loss.

    `net` has the layers of one phase, in today's form.
    """
    sources = {layer.type for layer in net.layer if not layer.bottom}
    loss = any("Loss" in layer.type or any(layer.loss_weight) for layer in net.layer)
    return sources == {"Input"} and not loss


_NAMED = re.compile(r"""\b(?:train_)?net\s*:\s*["']([^"'\n]+)["']""")


def net_of_solver(text: str) -> str:
    """The net that a solver's text names, to be shown; empty where it names none."""
    named = _NAMED.search(COMMENT_OR_STRING.sub(_kept, text))
    return named[1] if named else ""


def _kept(match: re.Match[str]) -> str:
    return " " if match[0].startswith("#") else match[0]
