"""Video instance segmentation: networks, weights, session, model."""
