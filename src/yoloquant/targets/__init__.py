"""Deployment targets: what each runtime runs in integers, and where quantizers must stand for it.

What belongs here: placements as data, rules that make them, and one file for each target. What does not: quantizer modules
(`quant/`), file formats (`export/`). Adding a target is adding one file here and naming it in `registry.py`.
"""
