"""The views of SVT's pre-training as pixels, for the processes that decode."""

from featcache.loaders.ahead import Pixels
from featcache.loaders.videos import VideoFiles
from featcache.methods.svt.pixels import read_views
from featcache.methods.svt.settings import SvtViewSettings
from featcache.methods.svt.views import draw_views


class SvtViewSource:
    """See :class:`featcache.loaders.ahead.ViewSource`; a view is uint8 [T, 3, S, S].

    Attributes:
        files: The videos.
    """

    def __init__(self, files: VideoFiles, settings: SvtViewSettings, *, seed: int) -> None:
        self.files = files
        self._settings = settings
        self._seed = seed

    def pixels(self, video: int, epoch: int) -> Pixels:
        """All views of one video.

        Raises:
            VideoError: It could be used when it was scanned, and cannot now.
        """
        name = self.files.videos[video].id
        with self.files.open_scanned(video) as reader:
            views = draw_views(self._settings, reader.timeline, video_id=name, epoch=epoch, seed=self._seed)
            return tuple(clip.numpy() for clip in read_views(reader, views))
