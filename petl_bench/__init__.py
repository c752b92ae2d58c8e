"""Benchmark suite for parameter-efficient transfer learning on video and text."""

__version__ = "0.1.0"
