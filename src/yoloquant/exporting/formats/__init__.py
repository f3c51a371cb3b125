"""The files that runtimes take, each format a file with a `Format` that `registry.py` names.

What belongs here: what a format is called, whose folders it takes, which packages it needs, and writing it. What does not:
running the file (`runtime/`), and proving it (`evaluation/parity.py`).
"""
