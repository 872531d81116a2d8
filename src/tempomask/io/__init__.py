"""Images in and out: videos, folders, cameras and arrays; masks, overlays and result files."""
