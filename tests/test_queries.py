"""docs/queries.md: each question there, asked with `bpfleet query`, has the answer that the page shows."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from agent_process import run
from query_fleet import load

PAGE = (Path(__file__).parent.parent / "docs" / "queries.md").read_text()
QUESTIONS = re.findall(r"^## (.*?)\n.*?```sql\n(.*?)```\n\n```text\n(.*?)```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    state = tmp_path_factory.mktemp("fleet")
    load(state)
    return str(state / "duckdb")


def test_the_page_has_eleven_questions() -> None:
    assert len(QUESTIONS) == 11


@pytest.mark.parametrize(("sql", "shown"), [q[1:] for q in QUESTIONS], ids=[q[0] for q in QUESTIONS])
def test_a_question_has_the_answer_that_the_page_shows(folder: str, sql: str, shown: str) -> None:
    done = run("query", "--store", folder, sql)
    assert (done.returncode, done.stdout, done.stderr) == (0, shown, "")


def test_without_sql_relations_are_listed(folder: str) -> None:
    done = run("query", "--store", folder, "--format", "json")
    found = {one["relation"]: one for one in map(json.loads, done.stdout.splitlines())}
    assert found["execve_counts"]["rows"] == 11
    assert found["execve_counts"]["columns"].endswith("seq, row, comm, count")
    assert found["execve_counts_rate"]["rows"] is None


def test_a_question_may_be_in_a_file_and_have_parameters(folder: str, tmp_path: Path) -> None:
    (tmp_path / "q.sql").write_text("SELECT host, ? AS n FROM agents WHERE agent = ?")
    done = run(
        "query",
        "--store",
        folder,
        "--format",
        "csv",
        "--param",
        "5",
        "--param",
        "a-3",
        str(tmp_path / "q.sql"),
    )
    assert done.stdout == '"host","n"\n"db-1",5\n'


@pytest.mark.parametrize("form", ["arrow", "parquet"])
def test_an_answer_goes_to_a_file_as_columns(folder: str, tmp_path: Path, form: str) -> None:
    path = tmp_path / "answer"
    assert (
        run(
            "query", "--store", folder, "--format", form, "-o", str(path), "FROM agents", "--limit", "2"
        ).stdout
        == ""
    )
    table = (
        pa.ipc.open_stream(path.read_bytes()).read_all() if form == "arrow" else pa.parquet.read_table(path)
    )
    assert table.num_rows == 2


def test_a_mistake_is_said_in_the_engines_words(folder: str) -> None:
    done = run("query", "--store", folder, "SELECT hots FROM agents")
    assert (done.returncode, done.stdout) == (1, "")
    assert 'Referenced column "hots" not found' in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_configuration_ends_with_2(tmp_path: Path) -> None:
    path = tmp_path / "aggregator.toml"
    path.write_text('[store.duckdb]\npaht = "x"\n')
    done = run("query", "--config", str(path), "SELECT 1")
    assert done.returncode == 2
    assert "did you mean 'path'" in done.stderr


def test_ctrl_c_ends_a_question_that_would_never_end(folder: str) -> None:
    sql = "SELECT count(*) FROM range(1000000000) a, range(1000000) b WHERE a.range + b.range = 7"
    code = "from bpfleet.cli import main; main()"
    # A shell lets what it starts in the background ignore the signal; so does what that starts.
    words = ["env", "--default-signal=INT", sys.executable, "-c", code, "query", "--store", folder, sql]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as asking:
        try:
            time.sleep(2)
            asking.send_signal(signal.SIGINT)
            _, told = asking.communicate(timeout=20)
        finally:
            asking.kill()
    assert (asking.returncode, "Traceback" in told) == (130, False)
