"""Whether there is memory for a net: asked when its shapes are known, before anything is made."""

from __future__ import annotations

import math

from converters.errors import NetError
from converters.memory import require_memory
from converters.net.plan import NetPlan

_FLOAT = 4


def require_room(plan: NetPlan) -> None:
    """Raise unless the net's parameters fit into free memory, and each blob beside its inputs.

    What a layer needs besides (its workspace, gradients, all blobs together) depends on who runs it
    and how. The inputs are kept while the net runs, whoever does.

    Raises:
        NetError: "LAYER: … needs N GiB of memory, M GiB are free".
    """
    sizes = [_FLOAT * math.prod(entry.spec.shape) for entry in plan.learnables]
    if sizes:
        place = max(range(len(sizes)), key=lambda index: sizes[index])
        largest = plan.learnables[place]
        what = f'{plan.source}: layer "{largest.layer}": blob {largest.place} {largest.spec.shape}'
        require_memory(sizes[place], what, NetError)
        together = f'{plan.source}: all parameters (the largest in layer "{largest.layer}")'
        require_memory(sum(sizes), f"{together}: the net", NetError)
    inputs = _FLOAT * sum(map(math.prod, plan.input_shapes().values()))
    for position in plan.layers:
        # A layer that moves values may hand its bottom on; its top is no new memory then.
        beside = not (position.layer.is_data or position.layer.moves_values)
        for name, shape in zip(position.top_names, position.top_shapes):
            what = f'{plan.source}: layer "{position.name}": top "{name}" {shape}'
            require_memory(_FLOAT * math.prod(shape), what, NetError)
            if beside and name not in position.layer.param.bottom:
                both = f"{what}, beside the net's inputs,"
                require_memory(inputs + _FLOAT * math.prod(shape), both, NetError)
