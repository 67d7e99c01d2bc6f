"""Where chunks of clients are trained: this process, worker processes, Ray actors."""
