"""A net: planned without torch, then blobs, layer modules, an fx graph and its passes."""
