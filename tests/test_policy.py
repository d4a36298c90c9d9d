"""A policy is valid as a whole or it is none."""

import pytest

from sfumato.agents.policies import PolicyError, read_file
from sfumato.schemas.cloudevent import EnvelopeError
from sfumato.schemas.policy import Policy

GOOD = """
[defaults]
version = 1
controller = "City of Delft"
purpose = "Traffic counts"
lawful_basis = "public_task"
dpia = "DPIA-7"
retention_hours = 24
targets.face = { mask = "mosaic", shape = "ellipse" }

[[policy]]
camera = "north"

[[policy]]
camera = "south"
version = 4
zones = [{ name = "windows", polygon = [[0, 0], [0.2, 0], [0.2, 0.5]] }]
"""


def test_defaults_apply_and_rows_override(tmp_path):
    path = tmp_path / "policies.toml"
    path.write_text(GOOD)
    north, south = read_file(path)
    assert (north.camera, north.version, north.zones) == ("north", 1, ())
    assert (south.version, south.zones[0].name) == (4, "windows")
    key, value, _ = south.to_message()
    assert Policy.from_message(key, value) == south


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ('mask = "mosaic"', 'mask = "blurr"', "targets.face.mask"),
        ("targets.face", "targets.aura", "targets.aura"),
        ("targets.face = { mask", "targets.face = { maks", "targets.face.maks"),
        ('"public_task"', '"because"', "lawful_basis"),
        ("version = 4", "version = 0", "version"),
        ("[0.2, 0.5]]", "[0.2, 1.5]]", "zones.0.polygon.2.1"),
        (", [0.2, 0], [0.2, 0.5]]", "]", "zones.0.polygon"),
        ('dpia = "DPIA-7"', "", "dpia"),
        ("retention_hours = 24", "retention_hours = 24\ncolour = 1", "colour"),
        ("retention_hours = 24", "retention_hours = 24\noutput = { codec = 'h266' }", "output.codec"),
        (
            "retention_hours = 24",
            "retention_hours = 24\noutput = { keyframe_interval = 0 }",
            "output.keyframe_interval",
        ),
        ("retention_hours = 24", "retention_hours = 24\noutput = { bitrat = 100 }", "output.bitrat"),
        ("retention_hours = 24", "retention_hours = 24\ndamaged = 'show'", "damaged"),
        ('camera = "south"', 'camera = "North Gate"', "camera"),
        ('camera = "south"', 'camera = "north"', "two policies"),
        ("[defaults]", "[default]", "unknown key"),
        ('targets.face = { mask = "mosaic", shape = "ellipse" }', "targets = {}", "targets"),
        ("[[policy]]", "[[policy]", "policies.toml"),
    ],
)
def test_a_bad_policy_file_names_the_field(tmp_path, old, new, named):
    path = tmp_path / "policies.toml"
    assert old in GOOD
    path.write_text(GOOD.replace(old, new))
    with pytest.raises(PolicyError, match=named.replace(".", r"\.")):
        read_file(path)


def test_a_policy_under_another_cameras_key_is_refused(tmp_path):
    path = tmp_path / "policies.toml"
    path.write_text(GOOD)
    with pytest.raises(EnvelopeError, match="key: differs from camera"):
        Policy.from_message(b"south", read_file(path)[0].to_message().value)
