"""The simulated world: how data are partitioned over clients, and which clients attack."""
