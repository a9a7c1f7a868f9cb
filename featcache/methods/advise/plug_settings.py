"""Settings of ``featcache evaluate tmm``, without torch."""

from typing import Literal

from featcache.config import Settings
from featcache.loaders.settings import BankSettings


class TmmEvaluationSettings(Settings):
    """Settings of ``featcache evaluate tmm``: a trained module and head on a store, as they are."""

    command: Literal["evaluate-tmm"] = "evaluate-tmm"
    """The command this file repeats."""
    bank: BankSettings
    """Where maps come from; as many channels as the run was trained on."""
    run: str
    """Folder of a ``train tmm`` run; clips and views are drawn as there."""
    label: str | None = None
    """Label column; null: that of the run."""
    test_splits: tuple[str, ...] | None = None
    """Splits to score; null: all but the training split."""
    order_test: bool = True
    """Score test clips with frames reversed, shuffled, and one frame repeated too."""
    device: str = "auto"
    """Where the module runs: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``."""
    out: str | None = None
    """Folder of the result; null: ``runs/<store>/plugged-<hash>``."""
