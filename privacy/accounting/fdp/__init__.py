"""f-DP: trade-off functions as values."""
