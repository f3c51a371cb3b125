"""The loop that trains float networks."""
