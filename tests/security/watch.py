"""An audit hook that records what is written, moved, made or removed outside of one folder, and what is started."""

import os
from pathlib import Path

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_PATHS = {  # audit event to the arguments that are paths changed by it, each with that of the folder it starts from
    "os.rename": ((0, 2), (1, 3)), "os.link": ((1, 3),), "os.symlink": ((1, 2),), "os.mkdir": ((0, 2),),
    "os.remove": ((0, 1),), "os.rmdir": ((0, 1),), "os.chmod": ((0, 2),), "os.chown": ((0, 3),),
    "os.truncate": ((0, None),), "os.utime": ((0, 3),), "shutil.rmtree": ((0, 1),),
}  # fmt: skip
_FORBIDDEN = ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "socket.connect")


class Watch:
    """Records what happens outside of the folder of the case that runs."""

    def __init__(self) -> None:
        self.allowed: Path | None = None
        self.touched: list[str] = []

    def __call__(self, event: str, arguments: tuple) -> None:
        if self.allowed is None:
            return
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, str | bytes) and isinstance(flags, int) and flags & _WRITES:
                self.note(event, path)
        elif event in _PATHS:
            for place, start in _PATHS[event]:
                given = arguments[start] if start is not None and start < len(arguments) else None
                self.note(event, arguments[place], start=given)
        elif event in _FORBIDDEN:
            self.touched.append(f"{event} {arguments!r:.200}")

    def note(self, event: str, path: object, *, start: int | None = None) -> None:
        if isinstance(path, int):
            return  # a file that is open already
        text = os.fsdecode(path)
        if start is not None and start >= 0 and not os.path.isabs(text):  # noqa: PTH117
            text = f"{Path(f'/proc/self/fd/{start}').readlink()}/{text}"
        real = os.path.realpath(Path(text).absolute().parent)
        if not f"{real}/".startswith(f"{self.allowed}/") and text != os.devnull:
            self.touched.append(f"{event} {text}")
