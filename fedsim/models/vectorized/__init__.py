"""The same network of k clients as one program."""
