"""What several families' training losses share: overlaps of boxes, assignment of objects to cells, and the loss on distances.

What belongs here: anything that two losses need. A family's own loss lives beside its network, `models/<family>/loss.py`.
"""
