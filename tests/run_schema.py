"""Whether a run's ``result.json`` is as the published schema says."""

import json
from pathlib import Path

import jsonschema

FILE = Path(__file__).parent.parent / "docs" / "result.schema.json"


def published_record(folder):
    """What the run in this folder says of itself; an error where the schema says otherwise."""
    schema = json.loads(FILE.read_text())
    written = json.loads((folder / "result.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(written)
    assert set(written) <= set(schema["properties"]), "a key that the schema does not have"
    assert written["schema_version"] == 1
    return written
