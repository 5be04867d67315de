"""Training in plain PyTorch: one process, or one of several that share a process group."""
