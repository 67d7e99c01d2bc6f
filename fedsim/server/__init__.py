"""The server's half of a round, the transport of work and replies, and the set-up of a run."""
