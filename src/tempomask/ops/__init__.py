"""Small tensor operations that several networks share."""
