"""Masks: of the engine against the plain network, of trackers without one, of features."""
