"""Images and boxes: data sets, sources of pictures and videos, letterboxing, loading, sampling, and the demo's generated set.

What belongs here: everything between files on disk and uint8 batches. It imports nothing of the project but errors.
"""
