"""Whether a prototxt is a net or a solver: nothing in it says so but its fields."""

from __future__ import annotations

import re

from converters.proto import caffe_pb2 as pb
from converters.prototxt.strangers import without_strings

_WORD = re.compile(r"[A-Za-z_]\w*")
_NET = frozenset(pb.NetParameter.DESCRIPTOR.fields_by_name)
_SOLVER = frozenset(pb.SolverParameter.DESCRIPTOR.fields_by_name)


def is_solver(text: str) -> bool:
    """Whether the first field that only one of the two messages has is the solver's.

    So a misspelt field leads to the error of the message that was meant.
    """
    for word in _WORD.findall(without_strings(text)):
        if (word in _NET) != (word in _SOLVER):
            return word in _SOLVER
    return False
