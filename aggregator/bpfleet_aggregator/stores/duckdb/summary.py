"""What each partition says of agents, collectors and losses, kept in it once it takes no more records.

So `agents`, `collectors` and `losses` read a few rows of each agent and partition, and not every record. A
partition without a summary (the current one; one whose writer was killed just then) is summed up in the
question, by the same statements, so that answers are the same either way. Gaps are few, and a repeat may be
in another partition: all are read.

`moment` orders all records of one agent: (received, spool_seq, spool), of which no two are equal.
"""

from __future__ import annotations

from collections.abc import Sequence

import duckdb

from bpfleet_aggregator.stores.duckdb.engine import text
from bpfleet_aggregator.stores.duckdb.partitions import Partition
from bpfleet_aggregator.stores.duckdb.state import SHIFT
from bpfleet_aggregator.stores.duckdb.tables import SUMMARIES
from bpfleet_aggregator.stores.losses import COUNTS, OF_A_READ, REASONS

__all__ = ["agents_view", "collectors_view", "losses_view", "make"]

_AGENTS, _COLLECTORS, _LOSSES = SUMMARIES

_MOMENT = "{'received': received, 'spool_seq': spool_seq, 'spool': spool}"

_AGENTS_OF = f"""
WITH told AS NOT MATERIALIZED (
    SELECT agent, host, boot, run, time, received, spool, spool_seq FROM (@snapshots)
    UNION ALL SELECT agent, host, boot, run, time, received, spool, spool_seq FROM (@statuses)
    UNION ALL SELECT agent, host, boot, run, NULL, time, spool, spool_seq FROM (@gaps)
), ends AS (
    -- First in plain columns: the structures are for the few records that this leaves.
    SELECT agent, min(received) AS first_seen, max(received) AS last_seen,
           max(received) FILTER (time IS NOT NULL) AS last_timed, count(*)::UBIGINT AS records
    FROM told GROUP BY agent
), last_ones AS (
    SELECT told.*, {_MOMENT} AS moment, received = last_seen AS is_last
    FROM told JOIN ends USING (agent) WHERE received = last_seen OR received = last_timed
), seen AS (
    SELECT agent, max(moment) FILTER (is_last) AS moment,
           arg_max({{'host': host, 'boot': boot, 'run': run}}, moment) FILTER (is_last) AS origin,
           max({{'received': received, 'time': time}}) FILTER (time IS NOT NULL) AS clock,
           any_value(first_seen) AS first_seen, any_value(records) AS records
    FROM last_ones JOIN ends USING (agent) GROUP BY agent
), latest AS (
    SELECT agent, arg_max(body, moment) AS body, max(moment) AS moment
    FROM (SELECT agent, body, {_MOMENT} AS moment FROM (@statuses)) GROUP BY agent
)
SELECT seen.agent, seen.moment AS moment, origin, first_seen, clock, records, latest.moment AS status_moment,
       CASE WHEN latest.moment IS NOT NULL THEN {{
           'version': json_extract_string(body, '$.software.version'),
           'kernel': json_extract_string(body, '$.software.kernel'),
           'labels': json_extract(body, '$.labels')::VARCHAR
       }} END AS status
FROM seen LEFT JOIN latest USING (agent)"""

_COLLECTORS_OF = f"""
WITH latest AS (
    SELECT agent, max(moment) AS moment, arg_max(host, moment) AS host, arg_max(body, moment) AS body
    FROM (SELECT agent, host, body, {_MOMENT} AS moment FROM (@statuses)) GROUP BY agent
), each AS (
    SELECT agent, moment, host, unnest(json_extract(body, '$.collectors[*]')) AS one FROM latest
)
SELECT agent, moment, host, json_extract_string(one, '$.name') AS collector,
       coalesce(json_extract_string(one, '$.version'), '') AS version,
       json_extract_string(one, '$.state') AS state,
       coalesce(json_extract_string(one, '$.error.what'), '') AS error,
       coalesce(json_extract_string(one, '$.error.remedy'), '') AS remedy,
       TRY_CAST(json_extract_string(one, '$.generation') AS UBIGINT) AS generation,
       TRY_CAST(json_extract_string(one, '$.interval_s') AS DOUBLE) AS interval_s
FROM each"""

_LOAD = "agent, boot, generation, collector, map, relation"
"""One map of one program that was loaded."""
_OF_A_READ = f"reason IN ({', '.join(map(text, OF_A_READ))})"
_MOST = (1 << 64) - 1
"""More is not told: whatever counts an agent sends, a question has an answer."""


def _added_up(source: str) -> str:
    """The losses of each map and reason; `time` is when the count last grew, `seen` when it was last told."""
    grew = "arg_max(time, {'count': count, 'early': -epoch_us(time)})"
    return f"""
SELECT {_LOAD}, reason, arg_max(host, seen) AS host, max(seen) AS seen,
       least(CASE WHEN {_OF_A_READ} THEN sum(count) ELSE max(count) END, {_MOST})::UBIGINT AS count,
       CASE WHEN {_OF_A_READ} THEN max(time) ELSE {grew} END AS time
FROM {source} GROUP BY {_LOAD}, reason"""


_LOSSES_OF = f"""
WITH texts AS (
    -- Few, so that what follows is for few. A read of parts says the same in each, and counts in the
    -- partition that has its first part.
    SELECT {_LOAD}, run, losses, arg_max(host, time) AS host, min(time) AS first, max(time) AS seen,
           count(DISTINCT seq - part) FILTER (late OR read >> {SHIFT} = snapshot >> {SHIFT}) AS reads
    FROM (@snapshots) WHERE losses IS NOT NULL GROUP BY {_LOAD}, run, losses
), told AS (
    SELECT {_LOAD}, host, first, seen, reads,
           unnest(regexp_extract_all(losses, {text(REASONS)}, 1)) AS reason,
           unnest(regexp_extract_all(losses, {text(COUNTS)}, 1))::HUGEINT AS count
    FROM texts
), each AS (
    SELECT {_LOAD}, host, seen, reason, CASE WHEN {_OF_A_READ} THEN count * reads ELSE count END AS count,
           CASE WHEN {_OF_A_READ} THEN seen ELSE first END AS time
    FROM told
)
{_added_up("each")}"""


def make(connection: duckdb.DuckDBPyConnection, partition: Partition) -> None:
    """Sum up a partition that takes no more records; raises duckdb.Error, and then nothing is changed."""
    connection.execute("BEGIN")
    try:
        for table, statement in (
            (_AGENTS, _AGENTS_OF),
            (_COLLECTORS, _COLLECTORS_OF),
            (_LOSSES, _LOSSES_OF),
        ):
            if table not in partition.tables:  # an older release has made the others
                connection.execute(f"CREATE TABLE {partition.alias}.{table} AS {_of(statement, [partition])}")
        connection.execute("COMMIT")
    except duckdb.Error:
        connection.execute("ROLLBACK")
        raise
    partition.tables |= set(SUMMARIES)


def agents_view(partitions: Sequence[Partition]) -> str:
    """The definition of `agents`."""
    return f"""
WITH parts AS ({_parts(_AGENTS, _AGENTS_OF, partitions)}
), seen AS (
    SELECT agent, max(moment) AS moment, arg_max(origin, moment) AS origin, min(first_seen) AS first_seen,
           max(clock) AS clock, sum(records)::UBIGINT AS records, arg_max(status, status_moment) AS status
    FROM parts GROUP BY agent
), lost AS (
    SELECT agent, count(*)::UBIGINT AS gaps, sum(count)::UBIGINT AS lost FROM gaps GROUP BY agent
), told AS (
    SELECT agent, least(sum(count), {_MOST})::UBIGINT AS losses FROM losses GROUP BY agent
)
SELECT seen.agent, origin.host AS host, first_seen, seen.moment.received AS last_seen, origin.boot AS boot,
       origin.run AS run, status.version AS version, status.kernel AS kernel,
       coalesce(status.labels, '{{}}') AS labels,
       (epoch_us(clock.received) - epoch_us(clock.time)) / 1e6 AS clock_offset_s, records,
       coalesce(lost.gaps, 0)::UBIGINT AS gaps, coalesce(lost.lost, 0)::UBIGINT AS lost,
       coalesce(told.losses, 0)::UBIGINT AS losses
FROM seen LEFT JOIN lost USING (agent) LEFT JOIN told USING (agent)"""


def collectors_view(partitions: Sequence[Partition]) -> str:
    """The definition of `collectors`."""
    return f"""
WITH statuses AS (
    SELECT agent, max(status_moment) AS moment FROM ({_parts(_AGENTS, _AGENTS_OF, partitions)}) GROUP BY agent
), parts AS ({_parts(_COLLECTORS, _COLLECTORS_OF, partitions)}
), told AS (
    SELECT agent, collector, least(sum(count), {_MOST})::UBIGINT AS losses FROM losses
    GROUP BY agent, collector
)
SELECT agent, host, collector, version, state, error, remedy, generation, interval_s,
       moment.received AS last_seen, coalesce(told.losses, 0)::UBIGINT AS losses
FROM parts JOIN statuses USING (agent, moment) LEFT JOIN told USING (agent, collector)"""


def losses_view(partitions: Sequence[Partition]) -> str:
    """The definition of `losses`."""
    return f"""
SELECT agent, host, collector, map, relation, reason, count, time, boot, generation
FROM ({_added_up(f"({_parts(_LOSSES, _LOSSES_OF, partitions)})")}) WHERE count > 0"""


def _parts(table: str, statement: str, partitions: Sequence[Partition]) -> str:
    """What the partitions say, each in the columns of its summary."""
    open_ones = [one for one in partitions if table not in one.tables]
    made = [f"SELECT * FROM {one.alias}.{table}" for one in partitions if table in one.tables]
    return " UNION ALL ".join([*made, *([f"({_of(statement, open_ones)})"] if open_ones else [])])


def _of(statement: str, partitions: Sequence[Partition]) -> str:
    """The statement about the records of these partitions."""
    sources = {
        name: " UNION ALL ".join(one.records(name) for one in partitions)
        for name in ("snapshots", "statuses", "gaps")
    }
    for name, source in sources.items():
        statement = statement.replace(f"@{name}", source)
    return statement
