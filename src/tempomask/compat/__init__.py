"""Interfaces of other projects on top of ours."""
