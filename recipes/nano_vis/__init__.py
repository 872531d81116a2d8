"""The synthetic set that nano-vis was trained on, and how its files became small."""
