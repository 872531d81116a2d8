"""`tempomask models`: every model by name, and whether its weights are on this machine."""

from __future__ import annotations

from typing import Any

from tempomask.cli import console
from tempomask.cli.options import Json
from tempomask.errors import unknown_name


def models(name: str | None = None, /, *, as_json: Json = False) -> None:
    """List every model: size, resolution, source, licence, and whether it is on this machine.

    Args:
        name: Of a model, to tell all about it.
    """
    rows = {row["name"]: row for row in _rows()}
    if name is not None:
        if name not in rows:
            raise unknown_name(f"unknown model {name!r}", name, rows)
        _show_one(rows[name], as_json)
        return
    if as_json:
        console.print_json(list(rows.values()))
        return
    columns = "name", "task", ">parameters", ">resolution", "here", "source", "licence"
    table = console.table(*columns)
    table.columns[0].no_wrap = True  # names are copied
    for row in rows.values():
        table.add_row(
            row["name"],
            row["task"],
            f"{row['parameters_millions']:g} M",
            str(row["image_size"]),
            "no" if row["path"] is None else "yes",
            row["source"],
            row["licence"],
        )
    console.out.print(table)


def _rows() -> list[dict[str, Any]]:
    from tempomask.weights import zoo

    families = {
        "track": zoo.MODELS,
        "track masks": zoo.MATCHING_MODELS,
        "instances": zoo.INSTANCE_MODELS,
        "propagate": zoo.DINOV3_MODELS,
    }
    return [
        {
            "name": info.name,
            "task": task,
            "parameters_millions": info.parameters,
            "image_size": info.image_size,
            "source": info.source,
            "licence": info.licence,
            "url": info.url or None,
            "path": None if (path := info.path()) is None else str(path),
        }
        for task, family in families.items()
        for info in family.values()
    ]


def _show_one(row: dict[str, Any], as_json: bool) -> None:
    """One model with its adapters, and where its weights are or come from."""
    from tempomask.adaptation.adapter_file import bundled_adapters, read_adapter

    found = (read_adapter(adapter) for adapter in bundled_adapters())
    row = {**row, "adapters": [a.folder.name for a in found if a.model == row["name"]]}
    if as_json:
        console.print_json(row)
        return
    for key, value in row.items():
        shown = ", ".join(value) if isinstance(value, list) else value
        console.out.print(f"{key.replace('_', ' '):20} {shown or 'none'}", soft_wrap=True)
