"""What several scenarios share: knobs, budgets and settings."""
