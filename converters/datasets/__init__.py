"""Image data sets: a file per set, listed by `converters.datasets.registry`.

A set's module only yields images and labels; `build` writes databases and means, `download` fetches
official archives, `archives` reads them in place. `means` is a plain table without dependencies.
"""
