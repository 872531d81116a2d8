"""`tempomask models`: every model by name, and whether its weights are on this machine."""

from __future__ import annotations

from tempomask.cli import console
from tempomask.cli.options import Json


def models(*, as_json: Json = False) -> None:
    """List every model: size, resolution, source, licence, and whether it is on this machine."""
    from tempomask.weights.zoo import DINOV3_MODELS, MODELS

    rows = [
        {
            "name": info.name,
            "parameters_millions": info.parameters,
            "image_size": info.image_size,
            "source": info.source,
            "licence": info.licence,
            "url": info.url or None,
            "path": None if (path := info.path()) is None else str(path),
        }
        for info in (*MODELS.values(), *DINOV3_MODELS.values())
    ]
    if as_json:
        console.print_json(rows)
        return
    table = console.table("name", ">parameters", ">resolution", "here", "source", "licence")
    for row in rows:
        table.add_row(
            row["name"],
            f"{row['parameters_millions']:g} M",
            str(row["image_size"]),
            "no" if row["path"] is None else "yes",
            row["source"],
            row["licence"],
        )
    console.out.print(table)
