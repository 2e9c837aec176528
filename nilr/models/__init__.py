"""Learners: a body that makes features and a linear head, and the table of architectures."""
