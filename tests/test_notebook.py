"""The notebook of the documentation runs, and shows what it shows there."""

import re
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parent.parent / "docs" / "notebooks" / "first_hour.ipynb"


def _texts(notebook):
    """What each cell of code shows as text, the lines of progress aside."""
    return [
        "\n".join(
            output["data"].get("text/plain", "")
            for output in cell["outputs"]
            if output["output_type"] == "execute_result"
        )
        for cell in notebook["cells"]
        if cell["cell_type"] == "code"
    ]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_notebook_runs_and_shows_what_is_shown(tmp_path):
    nbformat = pytest.importorskip("nbformat")
    from nbclient import NotebookClient

    shown = nbformat.read(NOTEBOOK, as_version=4)
    run = nbformat.read(NOTEBOOK, as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(run, timeout=1500, startup_timeout=300, resources=resources).execute()
    before, after = ("\n".join(_texts(notebook)) for notebook in (shown, run))
    number = r"-?\d+\.?\d*"
    assert re.sub(number, "1", after) == re.sub(number, "1", before)
    old, new = (list(map(float, re.findall(number, text))) for text in (before, after))
    assert new == pytest.approx(old, abs=3)  # per cent; another machine may round otherwise
    pictures = [
        output
        for cell in run["cells"]
        for output in cell.get("outputs", ())
        if "image/png" in output.get("data", {})
    ]
    assert len(pictures) == 2
    streams = [out for cell in run["cells"] for out in cell.get("outputs", ()) if "name" in out]
    assert [out["name"] for out in streams] == ["stdout"]  # the table for LaTeX, and no warning
