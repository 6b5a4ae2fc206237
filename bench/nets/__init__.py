"""The Caffe nets that are measured, written here from the facts of their architectures."""
