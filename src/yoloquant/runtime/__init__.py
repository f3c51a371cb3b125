"""Runners: one callable over torch, ONNX Runtime and OpenVINO.

What belongs here: loading a model into a runtime and running batches. Each runtime is imported when one of its runners is made.
"""
