"""What data layers read, a file per layer type: records, images by list, windows, rows, arrays.

`reader` says what they share and finds them, `converters.readers.transform` does what
`transform_param` says, and `gmnet_pt.solver.batches` turns the batches into tensors.
"""

from converters.readers.memory import MemoryReader
from converters.readers.reader import ALL, READERS, Arrays, Reader, Share, open_reader

__all__ = ["ALL", "READERS", "Arrays", "MemoryReader", "Reader", "Share", "open_reader"]
