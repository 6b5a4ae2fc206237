"""The data sets, a file each; nothing lists them."""
