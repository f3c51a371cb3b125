"""`python -m yoloquant`: the command line, as `torchrun -m yoloquant` starts it in several processes."""

from yoloquant.cli import main

main()
