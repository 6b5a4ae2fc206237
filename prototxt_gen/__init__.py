"""From a variant's name to the prototxt files of a Caffe net and its solver.

Read `variants` (the nets, and all arithmetic), `recipes` (training, means), then the
templates, `render` (variant → text → files) and `audit` (what a text costs). Never imports torch.
"""

from __future__ import annotations

from converters.errors import CaffeError
from converters.version import __version__

__all__ = ["GeneratorError", "__version__"]


class GeneratorError(CaffeError):
    """A variant, data set or option that does not exist or does not fit; says what is possible."""
