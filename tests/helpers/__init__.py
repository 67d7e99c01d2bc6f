"""Worlds, mechanisms and subjects that several test files share."""
