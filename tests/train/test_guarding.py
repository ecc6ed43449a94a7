"""The guards on a running training."""

import sys
import threading

from library.data.loading import read_ahead
from library.train.guarding import reading


def test_a_thread_that_waits_for_its_pictures_is_told_from_one_that_computes():
    asked, go_on = threading.Event(), threading.Event()

    class Slow:
        def __getitem__(self, ref):
            asked.set()
            go_on.wait(10)
            return ref

    trainer = threading.Thread(target=lambda: list(read_ahead(Slow(), [1, 2, 3], threads=1)))
    trainer.start()
    try:
        assert asked.wait(10)
        assert reading(sys._current_frames()[trainer.ident])
        assert not reading(sys._current_frames()[threading.get_ident()])
    finally:
        go_on.set()
        trainer.join()
