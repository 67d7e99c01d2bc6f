"""The audit of one run folder."""
