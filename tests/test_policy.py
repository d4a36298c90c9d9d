"""A policy is valid as a whole or it is none."""

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfumato.agents.policies import Register, check
from sfumato.agents.policy_files import PolicyError, read_file
from sfumato.models.task import NoPolicy
from sfumato.schemas.cloudevent import EnvelopeError
from sfumato.schemas.floor import Floor
from sfumato.schemas.outcome import Reason
from sfumato.schemas.policy import Policy, applicable, digest
from tests.test_anonymize import POLICY

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
    ("old", "new", "said"),
    [
        (
            'mask = "mosaic"',
            'mask = "blurr"',
            "targets.face.mask: unknown name; one of 'solid', 'noise', 'inpaint', 'mosaic', 'blur'",
        ),
        ("targets.face", "targets.aura", "targets.aura: unknown name; one of 'face', "),
        ("targets.face = { mask", "targets.face = { maks", "targets.face.maks: unknown key; take it out"),
        (
            "targets.face = {",
            "targets.face = { detectors = ['nose'],",
            "targets.face.detectors.0: unknown name; one of",
        ),
        ('"public_task"', '"because"', "lawful_basis: unknown name; one of 'consent', 'contract', "),
        ('lawful_basis = "public_task"', "", "lawful_basis: missing; without one nothing may be processed"),
        ('controller = "City of Delft"', "", "controller: missing; name who decides"),
        ("version = 4", "version = 0", "version: Input should be greater than or equal to 1"),
        ("[0.2, 0.5]]", "[0.2, 1.5]]", "zones.0.polygon.2.1: outside the picture; corners are shares, from 0 to 1"),
        ("[0.2, 0.5]]", "[0.2, -0.1]]", "zones.0.polygon.2.1: outside the picture"),
        (", [0.2, 0], [0.2, 0.5]]", "]", "zones.0.polygon: too few corners; a zone has at least 3"),
        ("[0.2, 0.5]]", "[0.0, 0.5], [0.2, 0.5]]", "zones.0.polygon: crosses itself"),
        ("[0.2, 0.5]]", "[0.1, 0]]", "zones.0.polygon: crosses itself"),
        ('dpia = "DPIA-7"', "", "dpia: missing; refer to the impact assessment"),
        ("retention_hours = 24", "retention_hours = 24\ncolour = 1", "colour: unknown key"),
        ("retention_hours = 24", "retention_hours = 24\noutput = { codec = 'h266' }", "output.codec: unknown name"),
        (
            "retention_hours = 24",
            "retention_hours = 24\noutput = { keyframe_interval = 0 }",
            "output.keyframe_interval: ",
        ),
        ("retention_hours = 24", "retention_hours = 24\noutput = { bitrat = 100 }", "output.bitrat: unknown key"),
        ("retention_hours = 24", "retention_hours = 24\noverload = { rule = 'drop' }", "overload.rule: unknown name"),
        ("retention_hours = 24", "retention_hours = 24\noverload = { max_age = 0 }", "overload.max_age: "),
        ("retention_hours = 24", "retention_hours = 24\ndamaged = 'show'", "damaged: unknown name"),
        ("retention_hours = 24", "retention_hours = 24\nvalid_until = 2027-01-01", "valid_until: without time zone"),
        (
            "retention_hours = 24",
            "retention_hours = 24\nvalid_until = 2027-01-01T00:00:00",
            "valid_until: without time zone",
        ),
        (
            "retention_hours = 24",
            "retention_hours = 24\nvalid_until = 'soon'",
            "valid_until: not a moment; write it as 2027",
        ),
        (
            "retention_hours = 24",
            "retention_hours = 24\nvalid_until = 2027",
            "valid_until: a number; write a moment as",
        ),
        (
            "retention_hours = 24",
            "retention_hours = 24\nvalid_from = 2027-01-01T00:00:00Z\nvalid_until = 2026-01-01T00:00:00Z",
            "valid_until: not later than valid_from",
        ),
        ('camera = "south"', 'camera = "North Gate"', "camera: not a camera's id or pattern"),
        ('camera = "south"', 'camera = "south@3"', "camera: not a camera's id or pattern"),
        ('camera = "south"', 'camera = "north"', "'north' has two policies"),
        ("[defaults]", "[default]", "unknown key default; known: defaults, policy"),
        ("[[policy]]", "[policy]", "not TOML"),
        ('targets.face = { mask = "mosaic", shape = "ellipse" }', "targets = {}", "targets: missing; say what"),
        ('targets.face = { mask = "mosaic", shape = "ellipse" }', "", "targets: missing; say what to mask"),
        ("[[policy]]", "[[policy]", "policies.toml: not TOML"),
    ],
)
def test_a_bad_policy_file_names_the_policy_the_field_and_the_remedy(tmp_path, old, new, said):
    path = tmp_path / "policies.toml"
    assert old in GOOD
    path.write_text(GOOD.replace(old, new))
    with pytest.raises(PolicyError, match=re.escape(said)) as caught:
        read_file(path)
    assert str(caught.value).startswith(str(path))


def test_every_problem_of_a_file_is_told_at_once(tmp_path):
    path = tmp_path / "policies.toml"
    path.write_text(GOOD.replace("version = 4", "version = 0").replace('camera = "north"', 'camera = "North"'))
    with pytest.raises(PolicyError) as caught:
        read_file(path)
    assert "policy of 'North': camera: " in str(caught.value)
    assert "policy of 'south': version: " in str(caught.value)


def test_json_says_the_same_as_toml_and_what_get_prints_can_be_set(tmp_path):
    toml = tmp_path / "policies.toml"
    toml.write_text(GOOD.replace("version = 4", "version = 4\nvalid_until = 2099-01-01T00:00:00+01:00"))
    found = read_file(toml)
    both, one = tmp_path / "both.json", tmp_path / "one.json"
    both.write_text(json.dumps({"policy": [json.loads(policy.model_dump_json()) for policy in found]}))
    one.write_text(found[1].model_dump_json())
    assert read_file(both) == found
    assert read_file(one) == found[1:]
    assert found[1].valid_until == datetime(2098, 12, 31, 23, tzinfo=UTC)
    one.write_text("[]")
    with pytest.raises(PolicyError, match="not an object"):
        read_file(one)


def test_the_published_schema_is_current_and_tells_right_from_wrong():
    path = Path(__file__).parent.parent / "docs" / "policy.schema.json"
    schema = json.loads(path.read_text())
    assert schema == json.loads(json.dumps(Policy.model_json_schema())), "run `make schemas`"
    valid = json.loads(POLICY.model_dump_json())
    jsonschema.validate(valid, schema)
    for wrong in ({"lawful_basis": "because"}, {"colour": 1}, {"zones": [{"name": "x", "polygon": [[0, 2]] * 3}]}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**valid, **wrong}, schema)


def test_a_policy_that_has_ended_is_warned_of():
    ended = POLICY.model_copy(update={"valid_until": datetime.now(UTC) - timedelta(days=1)})
    assert any(line.startswith("valid_until: in the past") for line in ended.warnings())
    assert not any("valid_until" in line for line in POLICY.warnings())


def test_weak_masks_are_warned_of_in_schedules_too():
    night = {"name": "night", "event": {"begins": "2026-01-01T00:00:00Z", "ends": "2026-01-02T00:00:00Z"}}
    blurred = named(
        "north", targets={"face": {"mask": "blur"}}, schedules=[{**night, "targets": {"text": {"mask": "blur"}}}]
    )
    assert [line.partition(":")[0] for line in blurred.warnings()] == [
        "targets.face.mask",
        "schedules.0.targets.text.mask",
    ]
    assert blurred.schedules[0].targets["text"].dilation == 0.15  # each target's own default


def test_a_policy_under_another_cameras_key_is_refused(tmp_path):
    path = tmp_path / "policies.toml"
    path.write_text(GOOD)
    with pytest.raises(EnvelopeError, match="key: differs from camera"):
        Policy.from_message(b"south", read_file(path)[0].to_message().value)


@pytest.mark.parametrize(
    ("camera", "names", "applies"),
    [
        ("north-1", ["*", "north-*", "north-1"], "north-1"),
        ("north-1", ["*", "north-*", "n*"], "north-*"),
        ("north-1", ["north-*", "*-1", "nor*-1"], "north-*"),
        ("north-1", ["*h-1", "nort*"], "nort*"),
        ("north-1", ["north-?", "north-*"], "north-?"),  # of equally many letters, fewer *
        ("north-1", ["*orth-?", "north*"], "*orth-?"),  # then the alphabet
        ("north-1", ["*"], "*"),
        ("north-1", ["south-*", "north-", "north-1x"], None),
        ("north-1", [], None),
    ],
)
def test_the_most_specific_policy_applies(camera, names, applies):
    assert applicable(camera, names) == applicable(camera, names[::-1]) == applies


NAMES = st.text("ab*?", min_size=1, max_size=4)


@given(st.text("ab", min_size=1, max_size=4), st.lists(NAMES, max_size=6))
def test_what_applies_matches_and_nothing_that_matches_is_more_specific(camera, names):
    def matches(name):
        return re.fullmatch(name.replace("*", ".*").replace("?", "."), camera) is not None

    chosen = applicable(camera, names)
    assert (chosen is None) == (not any(matches(name) for name in names))
    if camera in names:
        assert chosen == camera
    elif chosen is not None:
        assert matches(chosen)
        assert all(letters(name) <= letters(chosen) for name in names if matches(name))


def letters(name):
    return len(re.sub(r"[*?]", "", name))


NOW = datetime(2026, 6, 1, tzinfo=UTC)


def named(name, version=1, **fields):
    return Policy.model_validate({**json.loads(POLICY.model_dump_json()), "camera": name, "version": version, **fields})


def register_of(*policies, floor=None):
    register = Register(floor or Floor(), keep_history=True)
    for policy in policies:
        for history in (True, False):
            key, value, _ = policy.to_message(history=history)
            register.take(key, value, NOW)
    return register


def test_patterns_and_the_default_apply_until_withdrawn():
    register = register_of(named("*"), named("north-*", 5), named("north-1", 2))

    def version(camera):
        found = register.get(camera, NOW, NOW)
        return (found.camera, found.version)

    assert version("north-1") == ("north-1", 2)
    assert version("north-2") == ("north-*", 5)
    assert version("elsewhere") == ("*", 1)
    register.take(b"north-1", None, NOW)
    assert version("north-1") == ("north-*", 5)
    register.take(b"north-*", b"", NOW)
    register.take(b"*", b"", NOW)
    assert register.get("north-1", NOW, NOW) == NoPolicy(Reason.NO_POLICY)
    assert {name: sorted(versions) for name, versions in register.history.items()} == {
        "*": [1],
        "north-*": [5],
        "north-1": [2],
    }


@pytest.mark.parametrize("value", [b"junk", b"{}", named("south").to_message().value])
def test_what_does_not_validate_hides_the_patterns_behind_it(value):
    register = register_of(named("*"))
    register.take(b"north", value, NOW)
    assert register.get("north", NOW, NOW).reason is Reason.INVALID_POLICY
    assert register.get("south", NOW, NOW).version == 1


def test_a_policy_in_force_is_known_by_the_text_that_it_was_read_from():
    """Not by that of its version's history, nor by how this release would write it."""
    register = register_of(named("north", 3))
    fair = {"begins": NOW.isoformat(), "ends": (NOW + timedelta(hours=1)).isoformat()}
    night = {"begins": (NOW + timedelta(hours=1)).isoformat(), "ends": (NOW + timedelta(hours=2)).isoformat()}
    schedules = [
        {"name": "fair", "event": fair, "zones": []},
        {"name": "night", "event": night, "full_mask": True},
    ]
    applied = named("north", 3, schedules=schedules, purpose="another")
    value = applied.model_dump_json(indent=1).encode()
    register.take(b"north", value, NOW)
    for hours, schedule in ((0, "fair"), (1, "night"), (2, None)):
        form = register.get("north", NOW + timedelta(hours=hours), NOW)
        assert (form.schedule, form.version, form.sha256) == (schedule, 3, digest(value))
    assert register.in_force["north"].policy == applied
    assert register.get("south", NOW, NOW).sha256 is None


def test_keys_that_no_policy_can_have_change_nothing():
    register = register_of(named("*"))
    for key in (None, b"", b"\xff", b"North", b"*@x", b"*@", b"a b"):
        register.take(key, named("*", 9).to_message().value, NOW)
    assert register.get("north", NOW, NOW).version == 1


def test_a_version_is_never_given_another_content():
    first, second = named("north", 3), named("north", 4, purpose="Something else")
    register = register_of(first, second)
    check(register, [second, named("north", 5), named("south", 1)])
    with pytest.raises(PolicyError, match=r"'north': version: 4 was set with other content; raise it to 5"):
        check(register, [named("north", 4)])
    with pytest.raises(PolicyError, match=r"'north': version: 3 is lower than 4, which was set already; raise it to 5"):
        check(register, [first])
    with pytest.raises(PolicyError, match=r"'north': version: 2 is lower than 4"):
        check(register, [named("north", 2)])
    register.take(b"north", b"", NOW)
    with pytest.raises(PolicyError, match="other content"):  # also once withdrawn
        check(register, [named("north", 4)])
    check(register, [second])


def test_versions_set_before_there_was_a_history_count():
    register = Register(Floor(), keep_history=True)
    register.take(b"north", named("north", 3).to_message().value, NOW)
    with pytest.raises(PolicyError, match="other content; raise it to 4"):
        check(register, [named("north", 3, purpose="Something else")])


def test_a_policy_below_the_floor_is_none():
    register = register_of(named("*"), floor=Floor(targets=frozenset({"person"})))
    found = register.get("north", NOW, NOW)
    assert found.reason is Reason.INVALID_POLICY
    assert found.detail == "targets.person: missing; the site's floor wants it masked"
