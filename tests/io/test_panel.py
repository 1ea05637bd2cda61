"""Panel files and channel names."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codexseg.errors import InputError
from codexseg.io.slides.panel import read_panel, resolve_channel

NAMES = ["DAPI", "CD3e", "Pan-Cytokeratin", "HLA-DR", "CD8"]


@pytest.fixture
def write(tmp_path):
    def write_panel(text, encoding="utf-8"):
        path = tmp_path / "antibodies.tsv"
        path.write_bytes(text.encode(encoding))
        return path

    return write_panel


@pytest.mark.parametrize(
    "text",
    [
        "version\tchannel_id\tantibody_name\n1\tChannel:0:0\tDAPI\n1\tChannel:0:1\tCD3\n",
        "channel_id,antibody_name\n0,DAPI\n1,CD3\n",
        "channel_id;antibody_name\n0;DAPI\n1;CD3\n",
        '"channel_id","antibody_name","clone"\n"0","DAPI",\n"1","CD3","a, b"\n',
        "Antibody Name\tcycle\nDAPI\t1\nCD3\t1\n",
        "channel_number,cycle_number,marker_name\n1,1,DAPI\n2,1,CD3\n",
        "\n\nchannel_id\tantibody_name\n\n0\tDAPI\n\t\n1\tCD3\n\n",
        "channel_id\tantibody_name\r\n0\tDAPI\r\n1\tCD3\r\n",
        "channel_id\tantibody_name\n0\t DAPI \n1\t'CD3'\n".replace("'", '"'),
        "DAPI\nCD3\n",
        "DAPI\r\n\r\n  CD3  ",
        '"DAPI"\n"CD3"\n',
        "antibody_name\nDAPI\nCD3\n",
        "\ufeffDAPI\nCD3\n",
        "\ufeffchannel_id\tantibody_name\n0\tDAPI\n1\tCD3\n",
    ],
)
def test_all_panel_formats_give_equal_names(write, text):
    assert read_panel(write(text)) == ["DAPI", "CD3"]
    assert read_panel(write(text.removeprefix("\ufeff"), "utf-16")) == ["DAPI", "CD3"]


def test_comma_may_be_part_of_a_name(write):
    assert read_panel(write("DAPI\nHLA-A,B,C\n")) == ["DAPI", "HLA-A,B,C"]


def test_numeric_ids_define_the_order(write):
    header = "channel_id\tantibody_name\n"
    rows = "Channel:0:2\tC\nChannel:0:10\tD\nChannel:0:0\tA\nChannel:0:1\tB\n"
    assert read_panel(write(header + rows)) == ["A", "B", "C", "D"]
    assert read_panel(write(header + "10\tB\n9\tA\n")) == ["A", "B"]
    assert read_panel(write(header + "cy5\tB\nfitc\tA\n")) == ["B", "A"]
    assert read_panel(write(header + "2\tB\n\tA\n")) == ["B", "A"]
    with pytest.raises(InputError, match="'A', 'B' have the same channel_id"):
        read_panel(write(header + "1\tA\n1\tB\n"))


def test_duplicate_names_are_kept(write):
    assert read_panel(write("DAPI\nCD3\nDAPI\n")) == ["DAPI", "CD3", "DAPI"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("\n  \n", "is empty"),
        ("channel_id\tantibody_name\n", "no rows"),
        ("id\tprotein\n0\tDAPI\n", "none of the columns antibody_name"),
        ("DAPI,CD3\n", "none of the columns antibody_name"),
        ("channel_id\tantibody_name\n0\tDAPI\n1\t\n", "line 3: the name is missing"),
        ("channel_id\tantibody_name\n0\tDAPI\n\n1\n", "line 4: the name is missing"),
        ('channel_id\tantibody_name\n0\t"DAPI\n', "not a readable table"),
    ],
)
def test_invalid_panels_are_refused(write, text, message):
    with pytest.raises(InputError, match=message) as caught:
        read_panel(write(text))
    assert "antibodies.tsv" in str(caught.value)


def test_unreadable_panels_are_refused(write, tmp_path):
    with pytest.raises(InputError, match=r"nothing.tsv cannot be opened: No such file"):
        read_panel(tmp_path / "nothing.tsv")
    with pytest.raises(InputError, match=r"not UTF-8 text.*Save it as UTF-8"):
        read_panel(write("TGFβ\n", "cp1253"))


def test_exact_names_precede_names_of_other_case():
    assert resolve_channel("CD8", NAMES) == 4
    assert resolve_channel(" dapi", NAMES) == 0
    assert resolve_channel("cd8", ["cd8", "CD8"]) == 0
    with pytest.raises(InputError, match=r"ambiguous: channels 0 \('cd8'\), 1 \('CD8'\)"):
        resolve_channel("Cd8", ["cd8", "CD8"])


def test_duplicate_name_is_refused_only_when_resolved():
    names = ["DAPI", "CD3", "DAPI"]
    assert resolve_channel("CD3", names) == 1
    with pytest.raises(
        InputError, match=r"'DAPI' is ambiguous: channels 0 .* 2 .*panel file"
    ):
        resolve_channel("DAPI", names)


def test_unknown_name_lists_closest_names():
    with pytest.raises(
        InputError, match=r"'pancytokeratin' not found. Did you mean 'Pan-Cyto"
    ):
        resolve_channel("pancytokeratin", NAMES)
    with pytest.raises(
        InputError, match=r"Channel 'x' not found. The channels are: 'DAPI', 'CD3e'"
    ):
        resolve_channel("x", NAMES)
    many = [f"Marker {number}" for number in range(60)]
    with pytest.raises(InputError, match="Did you mean 'Marker 7") as caught:
        resolve_channel("marker_7", many)
    assert len(str(caught.value)) < 200


@given(st.lists(st.text(min_size=1), min_size=1, unique=True), st.data())
def test_exact_name_is_always_resolved(names, data):
    name = data.draw(st.sampled_from(names))
    assert resolve_channel(name, names) == names.index(name)
