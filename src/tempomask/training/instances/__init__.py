"""Training of instance segmenters: MinVIS, DVIS++'s tracker, and TAR on either."""
