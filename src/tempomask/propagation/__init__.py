"""Label propagation over an encoder's features."""
