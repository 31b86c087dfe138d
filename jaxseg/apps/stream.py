"""A network over the frames of one camera or video, one after the other."""

from typing import Any, Protocol

import jax
import numpy as np

from jaxseg import runtime, track
from jaxseg.results import Result
from jaxseg.types import Matching, Tracks

_update = jax.jit(track.update, compiler_options=runtime.options())


class Segments(Protocol):
    """What `jaxseg.load` gives, as far as it matters here."""

    def __call__(self, frames: Any) -> Result:
        """Segments a frame."""

    def pixels_per_unit(self, size: tuple[int, int]) -> float:
        """What `types.Matching` calls coordinates."""


class Stream:
    """Call it with frame after frame, uint8 RGB (H, W, 3): objects keep their ``track_id`` from one to the next.

    All begins anew with a frame of another size. For one thread; another stream of the same model may have another.

    Args:
      model: of `jaxseg.load`.
    """

    def __init__(self, model: Segments) -> None:
        self._model = model
        self._size: tuple[int, int] | None = None
        self._tracks: Tracks | None = None

    def __call__(self, frame: Any) -> Result:
        """Segments the next frame.

        Args:
          frame: uint8 RGB (H, W, 3), on the host or a device.

        Raises:
          ValueError: another shape or dtype.
        """
        if np.ndim(frame) != 3:
            raise ValueError(f"`frame` must be one frame (H, W, 3): got {np.shape(frame)}.")
        found, size = self._model(frame), (np.shape(frame)[0], np.shape(frame)[1])
        if self._tracks is None or size != self._size:
            self._size, self._tracks = size, track.start(found)
            self._matching = Matching(coordinates=self._model.pixels_per_unit(size))
        self._tracks, found = _update(self._tracks, found, self._matching)
        return found
