"""The machinery of options: one declaration, and everything that follows from it."""

from __future__ import annotations

import pytest

from launcher.errors import UsageError
from launcher.options.option import Options, option


class Sample(Options):
    count: int = option("--count", default=1, minimum=0, metavar="N", help="How many.")
    port: int | None = option("--master-port", default=None, example="29500", also_env="OLD_PORT")
    wait: float = option("--wait-time", default=0.5, minimum=0)
    loud: bool = option("-l", "--loud", default=False)
    names: tuple[str, ...] = option("--names", default=())
    mode: str = option("--mode", default="slow", choices=("slow", "fast"))
    script: str = option()
    provenance: dict[str, str] = option(default={})


def parse(environ=(), **given):
    return Sample.from_sources(
        {k: (f"--{k}", v) for k, v in given.items()}, dict(environ), script="s.py"
    )


def test_a_flag_has_both_spellings_and_shows_the_hyphens():
    port = Sample.options["port"]
    assert port.spellings == ("--master-port", "--master_port")
    assert port.flag == "--master-port"
    assert Sample.options["loud"].spellings == ("-l", "--loud")


def test_the_command_line_beats_the_environment_and_the_environment_the_default():
    assert parse().count == 1
    assert parse({"PET_COUNT": "2"}).count == 2
    assert parse({"PET_COUNT": "2"}, count="3").count == 3


def test_a_value_remembers_where_it_came_from():
    spec = parse({"PET_COUNT": "2", "OLD_PORT": "80"}, mode="fast")
    assert spec.provenance["count"] == "PET_COUNT"
    assert spec.provenance["port"] == "OLD_PORT"
    assert spec.provenance["mode"] == "--mode"
    assert spec.provenance["names"] == "default"
    assert "script" not in spec.provenance


def test_the_pet_variable_beats_the_other_variable():
    assert parse({"PET_PORT": "1", "OLD_PORT": "2"}).port == 1


@pytest.mark.parametrize(("text", "value"), [("0", False), ("1", True), ("2", True), ("-1", True)])
def test_the_variable_of_a_switch_is_a_number(text, value):
    assert parse({"PET_LOUD": text}).loud is value


@pytest.mark.parametrize("text", ["", "true", "yes", "0.5"])
def test_the_variable_of_a_switch_may_not_be_a_word(text):
    with pytest.raises(UsageError, match=rf"PET_LOUD={text}: must be 0 or 1"):
        parse({"PET_LOUD": text})


def test_a_switch_on_the_command_line_beats_a_variable_that_turns_it_off():
    assert parse({"PET_LOUD": "0"}, loud=True).loud is True


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("count", "two", "--count two: must be a whole number."),
        ("count", "-1", "--count -1: must be 0 or more."),
        ("wait", "soon", "--wait soon: must be a number."),
        ("wait", "nan", "--wait nan: must be 0 or more."),
        ("mode", "hot", "--mode hot: must be one of: slow, fast."),
        ("mode", "", "--mode '': must be one of: slow, fast."),
    ],
)
def test_an_error_names_the_flag_the_value_and_what_to_type(name, text, message):
    with pytest.raises(UsageError) as error:
        parse(**{name: text})
    assert error.value.message == message
    assert error.value.hint.startswith("Type for example: python -m launcher --")


def test_an_error_in_a_variable_says_how_to_set_it():
    with pytest.raises(UsageError) as error:
        parse({"PET_MODE": "hot"})
    assert (
        str(error.value)
        == "PET_MODE=hot: must be one of: slow, fast. Type for example: export PET_MODE=slow"
    )


def test_a_list_is_split_at_its_commas():
    assert parse(names="a, b,c").names == ("a", "b", "c")
    assert parse(names="").names == ()


def test_options_that_differ_from_their_default_become_arguments():
    spec = Sample(script="s.py", count=3, loud=True, names=("a", "b"), wait=2.0, port=80)
    assert spec.to_argv() == [
        "--count=3",
        "--master-port=80",
        "--wait-time=2",
        "--loud",
        "--names=a,b",
    ]
    assert Sample(script="s.py").to_argv() == []


def test_an_object_is_frozen_and_replace_makes_a_new_one():
    spec = Sample(script="s.py")
    with pytest.raises(AttributeError, match="frozen"):
        spec.count = 2
    assert spec.replace(count=2) == Sample(script="s.py", count=2)
    assert spec.count == 1


def test_provenance_plays_no_part_in_equality():
    assert parse(count="1") == parse() == Sample(script="s.py")
    assert hash(parse(count="1")) == hash(parse())


def test_repr_shows_what_differs_from_the_defaults():
    assert repr(Sample(script="s.py", count=2)) == "Sample(count=2, script='s.py')"


def test_a_program_may_give_close_types_but_no_wrong_ones():
    assert Sample(script="s.py", wait=3).wait == 3.0
    assert Sample(script="s.py", names=["a"]).names == ("a",)
    with pytest.raises(UsageError, match="count='3': must be of type int, not str"):
        Sample(script="s.py", count="3")
    with pytest.raises(UsageError, match="count=True: must be of type int"):
        Sample(script="s.py", count=True)
    with pytest.raises(TypeError, match="no field cuont"):
        Sample(script="s.py", cuont=3)
    with pytest.raises(TypeError, match="needs script"):
        Sample()


def test_a_program_cannot_give_values_that_the_command_line_refuses():
    with pytest.raises(UsageError, match="--count -1: must be 0 or more"):
        Sample(script="s.py", count=-1)
