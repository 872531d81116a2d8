"""Tracking of masks by matching pixels: memory, sessions and models of XMem and Cutie."""
