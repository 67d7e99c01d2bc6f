"""fedsim: a simulator for federated and private learning, built on Flower."""
