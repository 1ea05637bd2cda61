"""Resuming of an interrupted export from its intermediate files."""

import shutil

import pytest

from codexseg.stages import export
from tests.helpers.runs import execute, outputs
from tests.helpers.tissue import write_config, write_slide

PICKLED = "work/export.matched_seg_res_batch_pickle-*/*.pickle"
TILES = "work/export.cell_ome_tif-*/*.npz"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    write_slide(folder)
    config = write_config(folder)
    execute(config, folder / "run")
    return config, outputs(folder / "run")


@pytest.fixture
def stopped(finished, tmp_path, monkeypatch):
    """A run stopped before the last files were assembled."""
    config, expected = finished
    write = export.write_files

    def stop(inputs, numbers):
        for number in numbers:
            if number == len(export.EXPORTERS) - 1:
                raise KeyboardInterrupt
            yield from write(inputs, [number])

    with monkeypatch.context() as patch:
        patch.setattr(export, "write_files", stop)
        with pytest.raises(KeyboardInterrupt):
            execute(config, tmp_path / "run")
    return config, tmp_path / "run", expected


def forget_files(run):
    """Remove the records of assembled files, so that their pieces are needed again."""
    for folder in run.glob("work/export.files-*"):
        shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.parametrize("pattern", [PICKLED, TILES])
@pytest.mark.parametrize("damage", ["lost", "cut", "emptied"])
def test_lost_or_truncated_export_piece_is_rewritten(stopped, pattern, damage):
    config, run, expected = stopped
    forget_files(run)
    piece = sorted(run.glob(pattern))[-1]
    if damage == "lost":
        piece.unlink()
    else:
        content = piece.read_bytes()
        piece.write_bytes(content[: len(content) // 2] if damage == "cut" else b"")
    execute(config, run)
    assert outputs(run) == expected


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cells.csv", "exports/cell.ome.tif"])
@pytest.mark.parametrize("damage", ["lost", "cut"])
def test_lost_or_truncated_export_file_is_rewritten(stopped, name, damage):
    config, run, expected = stopped
    if damage == "lost":
        (run / name).unlink()
    else:
        (run / name).write_bytes((run / name).read_bytes()[:99])
    execute(config, run)
    assert outputs(run) == expected


@pytest.mark.slow
@pytest.mark.parametrize("n", range(4))
def test_resume_after_kill_during_cleanup(finished, tmp_path, monkeypatch, n):
    """A half-deleted folder must not refer to deleted files."""
    config, expected = finished
    remove, calls = shutil.rmtree, []

    def half(path, *args, **options):
        if "export" in str(path):
            calls.append(path)
            if len(calls) == n + 1:
                for file in sorted(path.rglob("*"))[::2]:
                    file.unlink()
                raise KeyboardInterrupt
        return remove(path, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", half)
        try:
            execute(config, tmp_path / "run")
        except KeyboardInterrupt:
            assert len(calls) == n + 1
    execute(config, tmp_path / "run")
    assert outputs(tmp_path / "run") == expected
    assert not list((tmp_path / "run" / "work").glob("*export*"))
    assert not list((tmp_path / "run" / "work").glob(".*"))
