"""Networks that match a frame with remembered ones, pixel by pixel: XMem and Cutie."""
