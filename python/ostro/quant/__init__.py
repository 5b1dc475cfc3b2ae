"""Quantization while loading: what gets which number format, and making it so."""
