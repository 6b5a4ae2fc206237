"""What families of forks' layers compute with torch: each module here is theirs by its name.

A family names it under TYPE_CHECKING alone, and `converters.layers.bind_torch` gives it to them.
"""
