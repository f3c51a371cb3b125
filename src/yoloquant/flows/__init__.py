"""The flows behind the commands, one file a verb.

What belongs here: checking what is given, calling the stages in order, and writing what they leave. What does not: printing
(`cli/`) and anything that computes.
"""
