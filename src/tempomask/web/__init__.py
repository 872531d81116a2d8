"""The page of `tempomask annotate`: click objects in a video, correct and track them, export."""
