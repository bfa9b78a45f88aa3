"""What the benchmark of training's overheads runs and reads."""
