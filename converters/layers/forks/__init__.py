"""Layers of forks of Caffe, a file per family; each file here is found by its being here."""
