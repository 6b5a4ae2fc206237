"""A net's way out of Caffe: `.py`, `.pt2`, `.onnx`, `.safetensors`.

`part` says which layers, `lines` what each layer is in torch's words, `arithmetic` has what those
words lack, `source` puts them together as a module, `forms` writes each form, and `comparison` runs
what was written beside the net.
"""
