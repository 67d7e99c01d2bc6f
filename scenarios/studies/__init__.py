"""Studies: several scenarios on the same worlds and seeds, and what a paper claims of them."""
