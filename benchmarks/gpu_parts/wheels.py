"""Adds wheels from a folder to the path without pip: all are unpacked, since extension modules need real files."""

import zipfile
from pathlib import Path


def unpack(wheels: Path, into: Path) -> list[str]:
    """Unpack all wheels of a folder into another.

    Args:
        wheels: Folder of the wheels.
        into: Output folder, to be added to ``sys.path``.

    Returns:
        Names of the wheels.

    Raises:
        SystemExit: There are no wheels, or two of one package.
    """
    found = sorted(wheels.glob("*.whl"))
    if not found:
        raise SystemExit(f"{wheels} holds no wheels; CONTRIBUTING.md says how the folder is made")
    packages = [path.name.partition("-")[0].lower() for path in found]
    if twice := next((name for name in packages if packages.count(name) > 1), None):
        raise SystemExit(f"{wheels} holds two wheels of {twice}; keep one")
    for path in found:
        with zipfile.ZipFile(path) as archive:
            archive.extractall(into)
    return [path.name for path in found]
