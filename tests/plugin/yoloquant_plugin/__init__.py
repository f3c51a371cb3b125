"""A package that adds a step, a target, an observer and a runtime from outside, as a user's would: one file each."""
