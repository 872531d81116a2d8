"""Studies: each folder reproduces the tables of one paper once; see the README in it."""
