"""What is said, not what is done: the records and small tools that everything else uses."""
