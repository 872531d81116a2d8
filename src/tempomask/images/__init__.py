"""Single images: a session that answers prompts, and automatic masks of everything in an image."""
