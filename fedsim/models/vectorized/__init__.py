"""k clients' networks as one program.

graph    trace a model into a list of layers and functions
layers   the stacked form of each layer
layout   memory layout of the clients' activations
"""
