"""Measuring speed: latency and throughput of runners, always several in turns.

What belongs here: timing of runners inside one process. Comparisons with other tools are in the repository's `benchmarks/`.
"""
