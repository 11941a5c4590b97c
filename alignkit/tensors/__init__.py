"""Checkpoint files as tensors: headers in, chunks out; chunks in, files out. No torch, no transformers."""
