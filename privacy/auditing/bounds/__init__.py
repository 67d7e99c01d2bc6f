"""Lower bounds on epsilon, from guesses, scores or cosines."""
