"""The state of a video: sessions, objects and their memories, propagation."""
