from __future__ import annotations

import pytest

from spreadpilot_core.ibkr.errors import CredentialsRefusedError
from spreadpilot_core.ibkr.model.secret_refs import canonical_ref


@pytest.mark.parametrize(
    "ref", ["ibkr/follower_123", "/ibkr/follower_123/", "secret/ibkr/follower_123", "secret/data/ibkr/follower_123"]
)
def test_all_spellings_are_one_secret(ref: str) -> None:
    """With or without the mount, with or without version 2's `data/`, a reference names the same secret."""
    assert canonical_ref(ref) == "ibkr/follower_123"


def test_the_mount_is_the_configured_one() -> None:
    """Another mount is stripped when it is the configured one; `data/` alone is a folder like any other."""
    assert canonical_ref("team/kv/data/a", mount="team/kv") == "a"
    assert canonical_ref("secret/a", mount="kv") == "secret/a"
    assert canonical_ref("data/a") == "data/a"


@pytest.mark.parametrize("ref", ["", "/", "secret/", "a//b", "../sys/seal", "a/./b", "a\nb"])
def test_what_names_no_secret_is_refused(ref: str) -> None:
    """A reference can't be empty, unprintable, or climb out of the mount."""
    with pytest.raises(CredentialsRefusedError, match="no reference"):
        canonical_ref(ref)
