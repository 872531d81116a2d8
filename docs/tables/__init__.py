"""Tables of the documents, made from the JSON files beside them.

A document holds a table between `<!-- table NAME -->` and `<!-- end -->`; NAME is a function of
`performance`, `quality` or `studies` here. `python -m docs.tables` writes all of them anew, with
`--check` it only says which are out of date.
"""
