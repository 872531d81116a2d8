"""Routing methods: policies that decide which blocks of an encoder run."""
