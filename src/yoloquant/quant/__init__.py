"""Quantizers: the arithmetic, the observers that choose ranges, and the modules that stand on a graph's edges.

What belongs here: everything that turns a placement into a network with fake-quantize modules. What does not: which edges are
quantized (`targets/`), and methods that change weights or search (`algorithms/`).
"""
