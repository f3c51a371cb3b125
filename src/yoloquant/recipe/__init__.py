"""Recipes: the model, what `--set` changes of it, and the presets."""
