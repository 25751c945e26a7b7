"""An iterator that runs in a thread, a few items ahead of who consumes it."""

import contextlib
import queue
import threading
from collections.abc import Generator
from typing import Any, TypeVar

ItemT = TypeVar("ItemT")
WAIT_S = 0.1  # between two looks at whether the consumer has gone


def ahead(items: Generator[ItemT], depth: int, name: str) -> Generator[ItemT]:
    """The `items`, made by a thread that is at most `depth` ahead; what it raises is raised here, behind the items.

    Closing the iterator ends the thread, after the item that it is at, and closes `items`.
    """
    ready: queue.Queue[tuple[Any, BaseException | None, bool]] = queue.Queue(depth)
    gone = threading.Event()

    def hand_over(item: Any, error: BaseException | None, is_last: bool) -> None:
        while not gone.is_set():
            with contextlib.suppress(queue.Full):
                ready.put((item, error, is_last), timeout=WAIT_S)
                return

    def run() -> None:
        try:
            for item in items:
                hand_over(item, None, False)
                if gone.is_set():
                    break
        except BaseException as error:
            hand_over(None, error, True)
        else:
            hand_over(None, None, True)
        finally:
            items.close()

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    try:
        while True:
            item, error, is_last = ready.get()
            if error is not None:
                raise error
            if is_last:
                return
            yield item
    finally:
        gone.set()
        thread.join()
