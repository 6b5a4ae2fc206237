"""The Jinja templates of `prototxt_gen`, installed as its package `templates`."""
