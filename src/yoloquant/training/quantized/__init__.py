"""The loop that trains quantized networks, with labels or without."""
