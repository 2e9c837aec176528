"""Probes: what features are worth before and after adaptation, without the head."""
