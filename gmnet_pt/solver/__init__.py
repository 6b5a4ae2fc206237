"""Training as Caffe does it: the solver, its step, update rules, data and snapshots."""
