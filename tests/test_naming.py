import re

from hypothesis import example, given
from hypothesis import strategies as st

from kennel_core import naming

LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
REF = st.text(min_size=1, max_size=300)
PLAIN = st.from_regex(r"[a-z0-9]+(-[a-z0-9]+)*", fullmatch=True)


@given(REF)
@example("")
@example("a$(touch x)")
@example("--upload-pack=x")
@example("../x")
@example("\u216fain")
@example("x" * 300)
@example("a\x00b\nc")
def test_a_slug_is_always_one_dns_label_of_plain_characters(ref: str) -> None:
    slug = naming.slug(ref)

    assert LABEL.fullmatch(slug)
    assert "--" not in slug


@given(PLAIN)
def test_a_ref_that_is_a_label_already_keeps_its_name(ref: str) -> None:
    if len(ref) <= naming.DNS_LABEL_MAX:
        assert naming.slug(ref) == ref


@given(REF, REF)
@example("feat/x", "feat-x")
@example("feat/x", "feat_x")
@example("Main", "main")
@example("a" * 64, "a" * 65)
def test_two_refs_never_share_a_slug(one: str, other: str) -> None:
    if one != other:
        assert naming.slug(one) != naming.slug(other)


def test_a_slug_can_be_told_from_a_ref_only_by_its_digest() -> None:
    # A branch may be named like the slug of another one; hosts are unique in the database, which refuses it.
    assert naming.slug(naming.slug("feat/x")) == naming.slug("feat/x")


@given(st.lists(REF, min_size=2, max_size=3))
def test_a_host_label_is_one_dns_label_whatever_its_parts_are(parts: list[str]) -> None:
    label = naming.label(*parts)

    assert LABEL.fullmatch(label)
    assert "--" not in label


@given(st.lists(PLAIN, min_size=3, max_size=3), st.lists(PLAIN, min_size=3, max_size=3))
@example(["a" * 40, "b" * 40, "main"], ["a" * 40, "b" * 41, "main"])
def test_host_labels_differ_unless_their_parts_read_the_same(one: list[str], other: list[str]) -> None:
    if "-".join(one) != "-".join(other):
        assert naming.label(*one) != naming.label(*other)


def test_a_plain_label_is_the_parts_joined() -> None:
    assert naming.label("shop", "api", "main") == "shop-api-main"


@given(REF, REF, REF)
def test_a_unit_name_is_one_that_systemd_takes(project: str, ref: str, service: str) -> None:
    name = naming.unit(project, ref, service, "0123abcd")

    assert re.fullmatch(r"kennel-[a-z0-9-]+-0123abcd\.service", name)
    assert len(name) <= naming.UNIT_NAME_MAX


@given(st.tuples(*[st.text()] * 5), st.tuples(*[st.text()] * 5))
def test_a_revision_follows_from_each_of_its_parts(one: tuple, other: tuple) -> None:
    assert (naming.revision(*one) == naming.revision(*other)) == (one == other)


@given(st.lists(st.text(), min_size=1), st.lists(st.text(), min_size=1))
@example(["ab", "c"], ["a", "bc"])
@example(["a,b"], ["a", "b"])
def test_a_digest_depends_on_how_its_parts_are_split(one: list[str], other: list[str]) -> None:
    assert (naming.digest(*one) == naming.digest(*other)) == (one == other)
