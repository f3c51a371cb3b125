"""From a network to a captured graph: one `torch.fx.GraphModule` of aten operators, BatchNorm folded, every node named.

What belongs here: capturing, rewrites that keep the outputs (folding, in-place to functional), and questions about the graph
(what kind of operator is this, which layer does it belong to). What does not: anything that knows of quantization.
"""
