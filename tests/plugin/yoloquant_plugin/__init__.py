"""A package that adds a step, a target, an observer, a runtime and a family from outside, as a user's would: one file each."""
