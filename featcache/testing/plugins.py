"""Writes a small package that adds entries to featcache, as `pip install` would."""

from collections.abc import Mapping
from pathlib import Path


def put_package(
    folder: Path, name: str, *, version: str = "1.0", files: Mapping[str, str], entries: Mapping[str, Mapping[str, str]]
) -> Path:
    """Write an installed package into a folder, to be used by adding the folder to the import path.

    Args:
        folder: The folder, e.g. a temporary one that PYTHONPATH names.
        name: Name of the distribution.
        version: Version of the distribution.
        files: Contents of its files by path, e.g. ``labprobes.py``.
        entries: Targets (``module:attribute``) by entry-point group and name.

    Returns:
        The folder.
    """
    about = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    groups = [f"[{group}]\n" + "".join(f"{key} = {target}\n" for key, target in found.items())
              for group, found in entries.items()]  # fmt: skip
    facts = {"Metadata-Version": "2.1", "Name": name, "Version": version, "Summary": f"{name} of a lab"}
    whole = {
        **files,
        f"{about.name}/METADATA": "".join(f"{key}: {value}\n" for key, value in facts.items()),
        f"{about.name}/entry_points.txt": "\n".join(groups),
        f"{about.name}/RECORD": "",
    }
    for path, text in whole.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    return folder
