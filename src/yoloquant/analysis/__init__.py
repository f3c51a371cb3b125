"""Measures of quantized networks: what each layer costs, and why. They change nothing."""
