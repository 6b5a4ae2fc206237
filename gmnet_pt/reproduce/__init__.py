"""The paper's tables and figures: which nets they need trained, the training, and the report.

`experiments` says what the paper reports; `budgets` how long we train; `runs` which runs that makes
and how far each is; `training` does one; `results` keeps what came out; `exhibits` sets it beside
the paper's figures, for `report` (HTML), `pages` (docs/reproduction.md) and the terminal.
"""
