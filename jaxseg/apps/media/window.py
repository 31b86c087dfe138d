"""A window that shows pictures; tkinter, which comes with Python, where there is a screen."""

import time
from typing import Any

import numpy as np

from jaxseg import config
from jaxseg.apps.media import films

ENDS = ("q", "Q", "Escape")
"""Keys that close the window."""

TICK = 0.01
"""Seconds between two looks at the keyboard."""

SHARE = 0.9
"""Of the screen that a picture may take."""


class Window:
    """A window, to be used by one thread and left at the end; q, Escape and its button close it.

    Attributes:
      closed: whether the user closed it.

    Raises:
      UserError: there is no screen, or this Python has no tkinter.
    """

    def __init__(self) -> None:
        try:
            import tkinter
        except ImportError as error:
            remedy = "Install it (python3-tk in Debian and Ubuntu), or write a file: --video FILE.mp4"
            raise config.UserError(f"--view needs tkinter, which this Python lacks. {remedy}") from error
        try:
            self._root = tkinter.Tk(className="jaxseg")
        except tkinter.TclError as error:
            remedy = "Start it where there is one, or write a file: --video FILE.mp4"
            raise config.UserError(f"--view needs a screen: {error}. {remedy}") from error
        self._root.withdraw()
        self._root.configure(background="#181818")
        self._label = tkinter.Label(self._root, borderwidth=0, background="#181818")
        self._label.pack(expand=True)
        self._root.protocol("WM_DELETE_WINDOW", self._close)
        self._root.bind("<Key>", self._press)
        self._root.bind("<Button-1>", self._press)
        self.closed, self._pressed, self._due = False, False, 0.0

    def __enter__(self) -> "Window":
        return self

    def __exit__(self, *_: object) -> None:
        self._root.destroy()

    def show(self, picture: np.ndarray, title: str, seconds: float = 0.0) -> None:
        """Shows a picture, made smaller where the screen is.

        Args:
          picture: (H, W, 3) uint8 RGB.
          title: of the window.
          seconds: that the picture before it is seen at least.
        """
        from PIL import Image, ImageTk

        self._due = max(self._due + seconds, time.monotonic())
        self._until(lambda: time.monotonic() >= self._due)
        height, width = picture.shape[:2]
        screen: Any = self._root.winfo_screenheight(), self._root.winfo_screenwidth()
        scale = min(1.0, SHARE * screen[0] / height, SHARE * screen[1] / width)
        size = max(1, round(scale * height)), max(1, round(scale * width))
        # The label does not keep the picture alive by itself.
        self._picture = ImageTk.PhotoImage(Image.fromarray(films.fitted(picture, size)))
        self._label.configure(image=self._picture)
        self._root.title(title)
        self._root.deiconify()
        self._root.update()

    def wait(self) -> None:
        """Waits for a key, a click, or the end."""
        self._pressed = False
        self._until(lambda: self._pressed)

    def _until(self, condition: Any) -> None:
        while not (condition() or self.closed):
            self._root.update()
            time.sleep(TICK)

    def _press(self, event: Any) -> None:
        self._pressed = True
        self.closed = self.closed or event.keysym in ENDS

    def _close(self) -> None:
        self.closed = True
