"""Single values: what each accepts, what it becomes, and the sentence when it is refused."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from rproxy.config import values
from rproxy.config.values import Wrong


def read(kind: Any, value: object) -> Any:
    return TypeAdapter(kind).validate_python(value, context={"base": Path("/etc/rproxy")})


def refusal(kind: Any, value: object) -> Wrong | ValueError:
    with pytest.raises(ValidationError) as caught:
        read(kind, value)
    error = caught.value.errors()[0]["ctx"]["error"]
    assert isinstance(error, ValueError)
    return error


def hint(kind: Any, value: object) -> str:
    error = refusal(kind, value)
    return error.hint if isinstance(error, Wrong) else ""


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("500ms", 0.5), ("10s", 10), ("5m", 300), ("1h", 3600), ("1.5s", 1.5), (" 2 s ", 2),
        (7, 7), (0.25, 0.25), (0, 0), ("0", 0), ("8760h", 365 * 86400),
    ],
)  # fmt: skip
def test_duration_in_seconds(written, seconds):
    found = read(values.Seconds, written)
    assert found == seconds
    assert isinstance(found, float)


@pytest.mark.parametrize(
    "written",
    [
        "",
        "10",
        "s",
        "-1s",
        "1d",
        "1m30s",
        "1e3s",
        "٣s",
        "ten",
        True,
        -1,
        float("nan"),
        float("inf"),
        "8761h",
        [],
        {},
    ],
)
def test_anything_else_is_no_duration(written):
    assert str(refusal(values.Seconds, written)).startswith("expected a duration")


def test_a_duration_of_ten_thousand_digits_is_refused():
    refusal(values.Seconds, "9" * 10_000 + "s")
    refusal(values.Seconds, 10**400)


def test_a_number_in_quotes_is_told_that_the_unit_is_missing():
    assert hint(values.Seconds, "10") == 'add a unit ("10s"), or leave out the quotes for seconds'


def test_a_wait_that_needs_a_limit_refuses_zero():
    assert "above 0" in str(refusal(values.SomeSeconds, "0s"))
    assert read(values.SomeSeconds, "1ms") == 0.001


def test_milliseconds_are_given_in_seconds_and_zero_means_five():
    assert [read(values.Milliseconds, number) for number in (50, 1500, 0)] == [0.05, 1.5, 5.0]
    refusal(values.Milliseconds, 1.5)


@pytest.mark.parametrize(
    ("written", "size"),
    [
        ("64k", 65536), ("10M", 10 << 20), ("1g", 1 << 30), (" 2 k ", 2048), ("100", 100),
        (0, 0), ("0m", 0), ("unlimited", 0), (5, 5), (2**63 - 1, 2**63 - 1),
    ],
)  # fmt: skip
def test_size_in_bytes(written, size):
    assert read(values.Size, written) == size


@pytest.mark.parametrize(
    "written", ["", "+1", "-1", "1kb", "1.5m", "k", -1, 1.0, True, 2**63, "9999999999g", "1" * 30]
)
def test_anything_else_is_no_size(written):
    assert str(refusal(values.Size, written)).startswith("expected a size")


@pytest.mark.parametrize("port", [0, 65536, -1, "443", 443.0, True, None])
def test_a_port_is_a_whole_number_from_1_to_65535(port):
    assert str(refusal(values.Port, port)).startswith("expected a whole number from 1 to 65535, got ")


def test_a_number_in_quotes_is_told_to_lose_them():
    assert hint(values.Port, "443") == "write it without quotes"
    assert hint(values.Port, "abc") == ""


def test_a_word_in_quotes_is_no_flag():
    error = refusal(values.Flag, "true")
    assert str(error) == 'expected true or false, got the text "true"'
    assert hint(values.Flag, "True") == "write true without quotes"
    assert str(refusal(values.Flag, 1)) == "expected true or false, got the number 1"


def test_a_choice_lists_what_there_is_and_guesses_what_was_meant():
    kind = values.PlainValidator(values.one_of(values.Balance))
    with pytest.raises(Wrong) as caught:
        kind.func("round-robin")
    assert str(caught.value) == (
        'expected one of "none", "round_robin", "random", "sticky", "least_connections", "source_ip", '
        '"primary_backup", got the text "round-robin"'
    )
    assert caught.value.hint == 'did you mean "round_robin"?'


@pytest.mark.parametrize("value", [[], {}, 5, None, True, 1.5])
def test_a_choice_refuses_what_is_no_text(value):
    with pytest.raises(Wrong):
        values.one_of(values.Balance)(value)


@pytest.mark.parametrize("text", ["", " ", "a\nb", "a\0b", "\x1b[31m", "a\x85", "a\u2028b", "\ud800"])
def test_a_text_is_not_empty_and_has_no_control_characters(text):
    error = refusal(values.Text, text)
    assert str(error).isprintable()


def test_paths_start_from_the_folder_of_the_file():
    assert read(values.FilePath, "certs/a.pem") == Path("/etc/rproxy/certs/a.pem")
    assert read(values.FilePath, "/srv/a.pem") == Path("/srv/a.pem")
    assert "only a shell expands" in str(refusal(values.FilePath, "~/a.pem"))


def test_paths_start_from_the_current_folder_when_there_is_no_file():
    assert TypeAdapter(values.FilePath).validate_python("a.pem") == Path.cwd() / "a.pem"


def test_names_are_canonical_and_one_name_is_a_list_of_one():
    assert read(values.Names, "EXAMPLE.org.") == ("example.org",)
    assert read(values.Names, ["*.b.example", "bücher.example"]) == ("*.b.example", "xn--bcher-kva.example")


@pytest.mark.parametrize(
    "name", ["", "https://a.example", "a_b.example", "a.example:443", "*", "a" * 2000, [], 5]
)
def test_what_is_no_name_is_refused(name):
    refusal(values.Names, name)


def test_networks_are_checked_one_by_one():
    assert read(values.Networks, ["10.0.0.0/8", "::1", "unix"]) == ("10.0.0.0/8", "::1", "unix")
    assert "write 10.0.0.0/8" in str(refusal(values.Networks, "10.0.0.1/8"))
    refusal(values.Networks, "cloudflare")
    assert read(values.NetworksOrClouds, ["cloudflare"]) == ("cloudflare",)
    assert read(values.NetworksOrClouds, []) == ()


def test_a_secret_is_32_bytes_and_never_repeated():
    assert read(values.Secret, "A" * 43) == "A" * 43
    error = refusal(values.Secret, "hunter2")
    assert "hunter2" not in f"{error} {hint(values.Secret, 'hunter2')}"


@pytest.mark.parametrize("path", ["foo", "/a b", "/ä", "/a?b", "/a#b", "", 5])
def test_a_prefix_is_a_path_as_requests_have_it(path):
    refusal(values.UrlPath, path)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("abc", 'the text "abc"'), ("a\n", r'the text "a\n"'), (5, "the number 5"), (1.5, "the number 1.5"),
        (True, "true"), ([], "a list"), ({}, "a table"), ((), "a list"),
    ],
)  # fmt: skip
def test_values_in_words(value, words):
    assert values.describe(value) == words


def test_a_number_that_python_refuses_to_print_has_words():
    for value in (16**6000, -(16**6000)):
        assert values.describe(value) == "a number beyond all use"


KINDS = [kind for name, kind in vars(values).items() if name[0].isupper() and hasattr(kind, "__metadata__")]
ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.dates()
    | st.datetimes()
    | st.times(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)


@given(ANYTHING)
def test_anything_is_a_value_or_a_refusal_in_one_line(value):
    assert KINDS
    for kind in KINDS:
        try:
            read(kind, value)
        except ValidationError as error:
            for detail in error.errors():
                assert "\n" not in str(detail["ctx"]["error"])
