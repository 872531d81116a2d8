"""Networks of video instance segmentation: Mask2Former, and the trackers MinVIS and DVIS++."""
