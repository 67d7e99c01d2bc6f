"""A whole run: its loop, folder, forecast and pictures, and comparisons of finished runs."""
