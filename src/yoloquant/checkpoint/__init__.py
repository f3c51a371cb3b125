"""From a model file to a `Detector`; nothing in the file is executed.

What belongs here: file formats (torch pickles, this project's safetensors), recognising families, and what `inspect` shows.
What does not: the networks themselves (`models/`).
"""
