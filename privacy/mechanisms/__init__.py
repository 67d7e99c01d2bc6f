"""One mechanism, one file, and the clipping rules that they share."""
