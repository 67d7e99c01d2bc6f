"""What is leaked: mechanisms, and later accounting and audits. Knows nothing of strategies."""

from privacy.none import none

__all__ = ["none"]
