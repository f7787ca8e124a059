"""Readers of published weights: they fill a model that is already built."""
