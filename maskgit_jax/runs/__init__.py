"""Run directories: configuration, checkpoints, frozen stages; training and loading them."""
