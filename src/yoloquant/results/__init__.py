"""What the flows leave, as values: frozen, with `to_dict`.

What belongs here: nothing that computes.
"""
