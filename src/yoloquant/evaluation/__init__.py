"""Evaluation of models on images: non-maximum suppression, COCO metrics, precision and recall, parity of files, predictions in
pictures, videos and streams, uncertainty of differences.

What belongs here: everything that takes a `Runner` and images and returns numbers or pictures of boxes.
"""
