"""Measurements beside a yardstick in the same run: `python -m bench`, or `make bench`."""
