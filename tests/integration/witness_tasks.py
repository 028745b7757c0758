"""What workers of Celery and RQ run: they find it by its name. A run leaves a line in the file WITNESS_RECORD.

As a program: ``celery -A witness_tasks worker``, with the URLs in WITNESS_BROKER and WITNESS_RESULTS.
"""

import os
from pathlib import Path

import celery

app = celery.Celery("witness", broker=os.environ.get("WITNESS_BROKER"), backend=os.environ.get("WITNESS_RESULTS"))
app.conf.update(
    task_acks_late=True,
    task_track_started=True,
    broker_connection_retry_on_startup=True,
    # A worker whose node dies finds out from its broken connection, and from nothing else.
    worker_cancel_long_running_tasks_on_connection_loss=False,
)


def leave(line: str) -> None:
    """Add a line to the record; lines of several processes do not mix."""
    with Path(os.environ["WITNESS_RECORD"]).open("a") as record:
        record.write(f"{line}\n")


@app.task(bind=True)
def noted(self: celery.Task, number: int) -> int:
    """Note the run, and whether Celery itself had given the message out before."""
    redelivered = bool((self.request.delivery_info or {}).get("redelivered"))
    leave(f"{number} {'again' if redelivered else 'first'}")
    return number


@app.task
def added(numbers: list[int]) -> int:
    """The sum: the end of a chord."""
    return sum(numbers)


@app.task(bind=True, max_retries=3)
def stubborn(self: celery.Task, times: int) -> int:
    """Fail so often before it gives how often it was tried."""
    if self.request.retries < times:
        raise self.retry(countdown=0.1)
    return int(self.request.retries) + 1


def squared(number: int) -> int:
    """Note the run; for RQ."""
    leave(str(number))
    return number * number


def failing(mark: str) -> str:
    """Fail the first time; for RQ."""
    leave(mark)
    if Path(os.environ["WITNESS_RECORD"]).read_text().splitlines().count(mark) < 2:
        raise RuntimeError("the first time fails")
    return mark
