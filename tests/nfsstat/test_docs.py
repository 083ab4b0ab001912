"""What docs/ promises of nfsstat: the JSON schema, and metrics that dashboard and alerts ask for."""
from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from nfsstat.__main__ import USAGE
from tests.nfssvc_shim.callserver import CallServer

from .conftest import Run

jsonschema = pytest.importorskip("jsonschema")
DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("words", ["-s", "-e", "-u -n net -n user", "-u -n net", "-E", "-W", "-L"])
def test_json_fits_the_schema(server: CallServer, nfsstat: Run, words: str) -> None:
    found = json.loads(nfsstat(*words.split(), "-f", "JSON").stdout)
    jsonschema.validate(found, json.loads((DOCS / "nfsstat.schema.json").read_text()))


def test_interval_json_is_one_object_a_line_and_fits_the_schema(server: CallServer, nfsstat: Run) -> None:
    (line,) = nfsstat("-w", "1", "--rounds", "1", "-f", "JSON").stdout.splitlines()
    jsonschema.validate(json.loads(line), json.loads((DOCS / "nfsstat.schema.json").read_text()))


def test_schema_refuses_what_is_no_such_output() -> None:
    schema = json.loads((DOCS / "nfsstat.schema.json").read_text())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"Server Info": {"RPC Counts": {"Getattr": -1}}}, schema)


@pytest.mark.parametrize("name", ["dashboard.json", "alerts.yml"])
def test_every_metric_that_is_asked_for_is_there(server: CallServer, nfsstat: Run, name: str) -> None:
    asked = set(re.findall(r"\bnfsd_[a-z_]+", (DOCS / "prometheus" / name).read_text()))
    given = set(re.findall(r"^(nfsd_[a-z_]+)", nfsstat("prom").stdout, re.MULTILINE))
    assert asked - given == set()


def test_every_option_of_the_usage_is_shown_in_docs() -> None:
    page = (DOCS / "nfsstat.md").read_text()
    options = set(re.findall(r"(?<![\w-])--?[A-Za-z0-9]+", USAGE)) - {"-o", "-f", "-w"}
    shown = set(re.findall(r"(?<![\w-])--?[A-Za-z0-9]+", page))
    assert options - shown == {"--deadline"}  # of check: see nfsstat(1)
