"""Made-up members of a run, and what a round shows of them."""
