"""Preset recipes: one YAML file each, whose first comment line says in a sentence what it is for."""
