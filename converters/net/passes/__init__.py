"""Rewrites of a net's graph: each changes its speed and not its values."""
