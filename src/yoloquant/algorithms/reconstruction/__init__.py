"""Reconstruction: the quantized network learns, part by part and without labels, to reproduce the float network's output.

What belongs here: cutting the graph into regions, keeping their inputs and targets, and the loop that learns rounding,
activation scales and biases of one region. AdaRound, BRECQ and QDrop are settings of this one method: a region is a layer, a
block, a few operators or the whole network; its loss is the squared error, that error weighted by Fisher information, or the
error of boxes and scores.
"""
