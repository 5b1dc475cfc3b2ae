"""The fused operations, and their CPU implementation."""
