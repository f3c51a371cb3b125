"""Detectors that come as ONNX graphs: the cut between network and head, the network in torch, the head as it is in the file."""
