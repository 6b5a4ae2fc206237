"""Caffe's wire format: `caffe.proto` and the classes that `make proto` generates from it."""
