"""Task queues on three real nodes while the leader of their database is killed: Celery, arq, dramatiq, RQ, saq.

Each is as its authors released it and believes that it talks to one Redis. Its node lives; the one that leads dies.
"""

import asyncio
import contextlib
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import celery
import dramatiq
import pytest
import rq
import saq
from arq import Retry as ArqRetry
from arq import Worker as ArqWorker
from arq import create_pool
from arq.connections import RedisSettings
from arq.jobs import JobStatus
from arq.worker import Function
from arq.worker import func as arq_function
from celery.result import AsyncResult
from cluster_processes import until
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend
from up_process import environment, wait_until
from witness_cluster import WitnessCluster

pytest_plugins = ("witness_cluster",)
pytestmark = [
    pytest.mark.usefixtures("clients_leave_connections"),
    pytest.mark.integration,
    # Libraries that run within the test's process still use names that redis-py calls deprecated.
    pytest.mark.filterwarnings("ignore:Call to deprecated:DeprecationWarning"),
]

CELERY_DATABASE, ARQ_DATABASE, DRAMATIQ_DATABASE, RQ_DATABASE, SAQ_DATABASE = 1, 2, 3, 4, 9
HERE = Path(__file__).parent
ENDS_S_MAX = 30.0
CELERY_TASKS = 300
JOBS = 60


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the tasks of a test leave their lines."""
    path = tmp_path / "record"
    path.touch()
    monkeypatch.setenv("WITNESS_RECORD", str(path))
    return path


def lines(record: Path) -> list[str]:
    return record.read_text().splitlines()


# Celery ---------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def celery_worker(directory: Path, broker: str, results: str) -> Iterator[None]:
    """A worker with two processes of its own, which takes tasks; it ends well when it is told to."""
    words = [
        sys.executable,
        "-m",
        "celery",
        "-A",
        "witness_tasks",
        "worker",
        "-c",
        "2",
        "-l",
        "INFO",
        "-n",
        "one@witness",
    ]
    urls = {"WITNESS_BROKER": broker, "WITNESS_RESULTS": results, "PYTHONPATH": str(HERE)}
    with (directory / "celery.log").open("wb") as log:
        process = subprocess.Popen(words, cwd=HERE, env=environment() | urls, stdout=log, stderr=log)
    try:
        wait_until(lambda: "ready." in (directory / "celery.log").read_text(), "a worker that is ready", ENDS_S_MAX)
        yield
        process.send_signal(signal.SIGTERM)
        assert process.wait(ENDS_S_MAX) == 0
    finally:
        process.kill()
        process.wait()
        print((directory / "celery.log").read_text())


@contextlib.contextmanager
def celery_client(url: str) -> Iterator[Any]:
    """The tasks as a web application has them."""
    import witness_tasks

    witness_tasks.app.conf.update(broker_url=url, result_backend=url)
    try:
        yield witness_tasks
    finally:
        witness_tasks.app.close()


def unacknowledged(cluster: WitnessCluster, node: int) -> int:
    """Messages that workers hold."""
    with cluster.client(node, CELERY_DATABASE) as client:
        return int(client.hlen("unacked"))


def test_celery_loses_no_task_when_the_leader_is_killed(cluster: WitnessCluster, record: Path, tmp_path: Path) -> None:
    """Worker and producer have a node each. A task that was sent is run once, unless Celery says that it repeats it."""
    leader = cluster.leader(CELERY_DATABASE)
    there, here = (cluster.url(node, CELERY_DATABASE) for node in cluster.followers(CELERY_DATABASE))
    with celery_worker(tmp_path, there, there), celery_client(here) as tasks:
        results: dict[int, AsyncResult[int]] = {}
        for number in range(CELERY_TASKS):
            if number == CELERY_TASKS // 2:
                wait_until(lambda: len(lines(record)) > CELERY_TASKS // 6, "some tasks to be run")
                cluster.kill(leader)
                assert len(lines(record)) < CELERY_TASKS // 2, "the leader was to die while tasks wait"
            results[number] = tasks.noted.delay(number)
        assert {number: result.get(timeout=ENDS_S_MAX) for number, result in results.items()} == {
            number: number for number in range(CELERY_TASKS)
        }
        assert {result.state for result in results.values()} == {"SUCCESS"}
    runs = Counter(lines(record))
    repeated = {run for run in runs if run.endswith("again")}
    assert {int(run.split()[0]) for run in runs} == set(range(CELERY_TASKS)), "a task was lost"
    assert all(count == 1 for run, count in runs.items() if run not in repeated), "a task was given out twice"
    with cluster.client(cluster.followers(CELERY_DATABASE)[0], CELERY_DATABASE) as client:
        assert (client.llen("celery"), client.hlen("unacked"), client.zcard("unacked_index")) == (0, 0, 0)


def test_celery_goes_on_at_another_node_when_its_own_is_killed(
    cluster: WitnessCluster, record: Path, tmp_path: Path
) -> None:
    """The broker's URL names two nodes; the worker is at the first, which also leads.

    Nothing is being worked on: kombu 5.7 stops a worker that holds messages when its connection breaks, with any Redis.
    """
    leader = cluster.leader(CELERY_DATABASE)
    there, here = (cluster.url(node, CELERY_DATABASE) for node in cluster.followers(CELERY_DATABASE))
    both = f"{cluster.url(leader, CELERY_DATABASE)};{there}"
    with celery_worker(tmp_path, both, there), celery_client(here) as tasks:
        results = [tasks.noted.delay(number) for number in range(40)]
        assert [result.get(timeout=ENDS_S_MAX) for result in results] == list(range(40))
        wait_until(lambda: unacknowledged(cluster, leader) == 0, "the end of all tasks")
        cluster.kill(leader)
        results = [tasks.noted.delay(number) for number in range(40, 80)]
        assert [result.get(timeout=ENDS_S_MAX) for result in results] == list(range(40, 80))
    assert Counter(lines(record)) == Counter(f"{number} first" for number in range(80))


def test_what_else_celery_does(cluster: WitnessCluster, record: Path, tmp_path: Path) -> None:
    """Retries, chords, countdowns, revoked tasks, and questions to all workers."""
    there, here, _ = (cluster.url(node, CELERY_DATABASE) for node in (1, 2, 3))
    with celery_worker(tmp_path, there, there), celery_client(here) as tasks:
        assert tasks.stubborn.delay(2).get(timeout=ENDS_S_MAX) == 3
        chord = celery.chord((tasks.noted.s(number) for number in range(10)), tasks.added.s())
        assert chord.delay().get(timeout=ENDS_S_MAX) == 45
        later = tasks.noted.apply_async((100,), countdown=0.5)
        revoked = tasks.noted.apply_async((101,), countdown=6)
        assert tasks.app.control.ping(timeout=2) == [{"one@witness": {"ok": "pong"}}]
        revoked.revoke()
        assert later.get(timeout=ENDS_S_MAX) == 100
        with pytest.raises(celery.exceptions.TaskRevokedError):
            revoked.get(timeout=ENDS_S_MAX)
    assert Counter(lines(record)) == Counter([*(f"{number} first" for number in range(10)), "100 first"])


# arq ------------------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def arq_worker(function: Function, at: RedisSettings) -> AsyncIterator[None]:
    """A worker in this loop, which has ended on return."""
    worker = ArqWorker([function], redis_settings=at, poll_delay=0.05, max_jobs=5, handle_signals=False)
    working = asyncio.create_task(worker.main())
    try:
        yield
    finally:
        # Once is not always enough: on its way through so many layers a cancellation may be taken for something else.
        while not working.done():
            working.cancel()
            await asyncio.wait([working], timeout=0.5)
        await worker.close()


async def test_arq_does_each_job_when_the_leader_is_killed(cluster: WitnessCluster) -> None:
    """Two workers at one node, a producer at another; job 20 kills the leader, and every second job is tried again."""
    leader = cluster.leader(ARQ_DATABASE)
    here, there = (RedisSettings.from_dsn(cluster.url(node, ARQ_DATABASE)) for node in cluster.followers(ARQ_DATABASE))
    runs: Counter[int] = Counter()

    async def tried(ctx: dict[Any, Any], number: int) -> int:
        if number == JOBS // 3 and ctx["job_try"] == 1:
            cluster.kill(leader)
        runs[number] += 1
        if ctx["job_try"] == 1 and number % 2:
            raise ArqRetry(defer=0.05)
        return number * number

    async with contextlib.AsyncExitStack() as stack:
        pool = await create_pool(here)
        stack.push_async_callback(pool.aclose)
        for _ in range(2):
            await stack.enter_async_context(arq_worker(arq_function(tried, name="tried"), there))
        jobs = [await pool.enqueue_job("tried", number, _job_id=f"job-{number}") for number in range(JOBS)]
        assert await pool.enqueue_job("tried", 0, _job_id="job-0") is None, "enqueued twice"
        deferred = await pool.enqueue_job("tried", JOBS, _defer_by=1)
        assert await deferred.status() == JobStatus.deferred
        for number, job in enumerate([*jobs, deferred]):
            await until(job.result_info, f"the result of job {number}", ENDS_S_MAX)
            # Only now: arq asks for a result and for its place in the queue one after the other, and may find neither.
            assert await job.result() == number * number
        assert await pool.queued_jobs() == []
        assert len(await pool.all_job_results()) == JOBS + 1
    assert runs == {number: 1 + number % 2 for number in range(JOBS + 1)}


# dramatiq -------------------------------------------------------------------------------------------------------------


def test_dramatiq_does_each_message_when_the_leader_is_killed(cluster: WitnessCluster) -> None:
    """Its broker is all scripts. Workers at one node, a producer at another; message 20 kills the leader."""
    leader = cluster.leader(DRAMATIQ_DATABASE)
    here, there = (cluster.url(node, DRAMATIQ_DATABASE) for node in cluster.followers(DRAMATIQ_DATABASE))
    runs: Counter[int] = Counter()
    lock = threading.Lock()

    def tried(number: int) -> int:
        if number == JOBS // 3 and not runs[number]:
            cluster.kill(leader)
        with lock:
            runs[number] += 1
        if number % 2 and runs[number] == 1:
            raise RuntimeError("every second message fails the first time")
        return number * number

    def actor_at(url: str) -> tuple[RedisBroker, dramatiq.Actor[[int], int], RedisBackend]:
        backend = RedisBackend(url=url)
        broker = RedisBroker(url=url)
        broker.add_middleware(Results(backend=backend))
        options = {"store_results": True, "min_backoff": 50, "max_backoff": 100}
        return broker, dramatiq.actor(tried, broker=broker, actor_name="tried", **options), backend

    (broker, _, working), (producer, actor, backend) = actor_at(there), actor_at(here)
    worker = dramatiq.Worker(broker, worker_threads=4, worker_timeout=100)
    worker.start()
    try:
        messages = [actor.send(number) for number in range(JOBS)]
        messages.append(actor.send_with_options(args=(JOBS,), delay=500))
        results = [message.get_result(backend=backend, block=True, timeout=30_000) for message in messages]
        assert results == [number * number for number in range(JOBS + 1)]
        producer.join("default", timeout=10_000)
    finally:
        worker.stop()
        for each in (broker, producer):
            each.close()
            each.client.close()
        for each in (working, backend):
            each.client.close()
    assert runs == {number: 1 + number % 2 for number in range(JOBS + 1)}


# RQ -------------------------------------------------------------------------------------------------------------------


def test_rq_does_each_job_when_the_leader_is_killed(
    cluster: WitnessCluster, record: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker in this process at one node, a producer at another."""
    monkeypatch.syspath_prepend(str(HERE))
    import witness_tasks

    leader = cluster.leader(RQ_DATABASE)
    here, there = cluster.followers(RQ_DATABASE)
    with cluster.client(here, RQ_DATABASE) as client, cluster.client(there, RQ_DATABASE) as working:
        queue = rq.Queue(connection=client)
        jobs = [queue.enqueue(witness_tasks.squared, number) for number in range(JOBS)]
        last = queue.enqueue(witness_tasks.squared, JOBS, depends_on=jobs)
        retried = queue.enqueue(witness_tasks.failing, "mark", retry=rq.Retry(max=2))
        assert last.get_status() == rq.job.JobStatus.DEFERRED

        def kill_in_the_middle() -> None:
            wait_until(lambda: len(lines(record)) > JOBS // 3, "some jobs to be run", ENDS_S_MAX)
            cluster.kill(leader)

        killer = threading.Thread(target=kill_in_the_middle)
        killer.start()
        worker = rq.SimpleWorker([queue], connection=working)
        worker.work(burst=True)
        killer.join()
        assert [job.return_value(refresh=True) for job in [*jobs, last]] == [number**2 for number in range(JOBS + 1)]
        assert retried.return_value(refresh=True) == "mark"
        assert [result.type.name for result in retried.results()] == ["SUCCESSFUL"]
        assert len(queue.finished_job_registry) == JOBS + 2
        assert (len(queue), len(queue.failed_job_registry), rq.Worker.all(connection=client)) == (0, 0, [])
    assert Counter(lines(record)) == Counter([*map(str, range(JOBS + 1)), "mark", "mark"])


# saq ------------------------------------------------------------------------------------------------------------------


async def test_saq_does_each_job_when_the_leader_is_killed(cluster: WitnessCluster) -> None:
    """A worker at one node, a producer at another; it moves jobs with BLMOVE and hears of results by PUBLISH."""
    leader = cluster.leader(SAQ_DATABASE)
    here, there = (cluster.url(node, SAQ_DATABASE) for node in cluster.followers(SAQ_DATABASE))
    runs: Counter[int] = Counter()

    async def squared(_: object, *, number: int) -> int:
        if number == JOBS // 3:
            cluster.kill(leader)
        runs[number] += 1
        return number * number

    producer, queue = saq.Queue.from_url(here), saq.Queue.from_url(there)
    worker = saq.Worker(queue, functions=[("squared", squared)], concurrency=4, dequeue_timeout=0.5)
    await producer.connect()
    working = asyncio.create_task(worker.start())
    try:
        # The first sweep for jobs that nobody works on; saq takes one for such that a worker is just about to begin.
        await until(lambda: producer.redis.exists(producer.namespace("sweep")), "a first sweep")
        results = await asyncio.gather(*(producer.apply("squared", number=number) for number in range(JOBS)))
        assert results == [number * number for number in range(JOBS)]
        assert await producer.count("queued") == await producer.count("active") == 0
    finally:
        await worker.stop()
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        await producer.disconnect()
    assert runs == dict.fromkeys(range(JOBS), 1)
