"""A chunk of clients at work: trainer, oracle, per-example gradients, client state, evaluation."""
