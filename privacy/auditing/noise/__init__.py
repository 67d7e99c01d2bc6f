"""Tests of a run's noise and of its cohort sizes."""
