"""What a simulation takes for granted: who owns which example, and who attacks."""
