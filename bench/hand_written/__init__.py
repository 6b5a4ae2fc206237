"""The measured nets as one writes them in PyTorch: the yardstick. Nothing here knows Caffe's files.

Parameters come in the order of the Caffe net's blobs, so that weights are handed over by position.
"""
