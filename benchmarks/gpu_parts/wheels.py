"""Wheels from a folder onto the path, without pip: all are unpacked, since extension modules do not load from a zip."""

import zipfile
from pathlib import Path


def unpack(wheels: Path, into: Path) -> list[str]:
    """Unpack all wheels of a folder side by side.

    Args:
        wheels: The folder.
        into: Where to; it then belongs on ``sys.path``.

    Returns:
        Their names.

    Raises:
        SystemExit: No wheels there, or two of one package.
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
