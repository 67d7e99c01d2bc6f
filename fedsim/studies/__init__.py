"""Studies: arms, seeds, claims and verdicts."""
