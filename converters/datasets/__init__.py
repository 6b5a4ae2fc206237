"""Image data sets: `registry` says what one is, `sets` has a file for each.

A set's module states facts and yields images and labels; `build` writes databases and means,
`download` fetches official archives, `tar_members` and `matfile` read them in place.
"""
