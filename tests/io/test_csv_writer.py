"""Small CSV tables."""

import pytest

from codexseg.io.csv_writer import write_csv_rows

ROWS = [{"a": 1, "b": "x, y"}, {"a": 2.5, "b": True}, {"a": "µ"}]


@pytest.mark.parametrize("end", ["\r\n", "\n"])
def test_csv_bytes(tmp_path, end):
    write_csv_rows(tmp_path / "t.csv", ["a", "b"], ROWS, line_end=end)
    lines = ["a,b", '1,"x, y"', "2.5,True", "µ,", ""]
    assert (tmp_path / "t.csv").read_bytes() == end.join(lines).encode()


def test_failed_row_keeps_old_file(tmp_path):
    write_csv_rows(tmp_path / "t.csv", ["a", "b"], ROWS)
    old = (tmp_path / "t.csv").read_bytes()
    with pytest.raises(ValueError, match="'c'"):
        write_csv_rows(tmp_path / "t.csv", ["a", "b"], [{"a": 1, "c": 2}])
    assert (tmp_path / "t.csv").read_bytes() == old
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]
