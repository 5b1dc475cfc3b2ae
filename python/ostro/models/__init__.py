"""Gemma 3 written against the fused operations."""
