"""Writes rows to whichever PostgreSQL leads, and notes each one once it is acknowledged: PORTS FILE.

Runs by itself, in the Python that Patroni is installed in.
"""

import sys
import time

import psycopg


def write(ports: str, acked: str) -> None:
    """For ever. A row whose fate is not known is not written again: the next one has another number."""
    hosts = ",".join("127.0.0.1" for _ in ports.split(","))
    number = 0
    with open(acked, "a", buffering=1) as file:
        while True:
            try:
                with psycopg.connect(
                    host=hosts,
                    port=ports,
                    user="postgres",
                    dbname="postgres",
                    target_session_attrs="read-write",
                    connect_timeout=2,
                    autocommit=True,
                ) as connection:
                    connection.execute("create table if not exists rows (id bigint primary key)")
                    while True:
                        number += 1
                        connection.execute("insert into rows values (%s)", (number,))
                        file.write(f"{number} {time.monotonic()} .\n")
                        time.sleep(0.01)
            except psycopg.Error as error:
                print(f"{time.monotonic():.3f} after {number}: {error}", file=sys.stderr, flush=True)
                time.sleep(0.05)


write(sys.argv[1], sys.argv[2])
