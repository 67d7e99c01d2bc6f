"""Studies: several scenarios with the same data and seeds, and the claims of a paper about them."""
