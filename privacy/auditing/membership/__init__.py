"""Membership inference on models that are trained again and again."""
