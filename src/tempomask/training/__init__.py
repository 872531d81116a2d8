"""Training of segmenters on clips: losses, prompts, the unrolled clip, the loop and recipes."""
