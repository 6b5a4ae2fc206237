"""Long attacks, run by `make torture`: damaged files, kills, full disks, dead terminals.

Each module here attacks one kind of thing and yields a `Tally` a kind of attack; `__main__` runs
them and prints the table. What an attack may end in is decided in `child`, once for all.
"""
