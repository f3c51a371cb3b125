"""Images and boxes: data sets, letterboxing, loading, sampling, and the generated set of the demo.

What belongs here: everything between files on disk and uint8 batches. It imports nothing of the project but errors.
"""
