"""What to do about a name that something else on the engine bears: what another manager has may be a living account's."""

from __future__ import annotations

from spreadpilot_core.ibkr.errors import NameHeldError


def held_name(
    what: str, name: str, identity: str | None, *, remove: str, details: str = "", runs: bool = False
) -> NameHeldError:
    """The refusal of a launch that needs the name.

    Args:
        what: a container, a volume, ...
        name: its name.
        identity: the other manager's; None: no manager made it.
        remove: how it is removed, where no manager made it and it does not run.
        details: more of it, in brackets.
        runs: whether it runs.

    """
    about = f" ({details})" if details else ""
    if identity is not None:
        return NameHeldError(
            f"The {what} {name}{about} belongs to another manager (identity {identity}).",
            hint="Leave it: a living account may be in it. Choose another container_prefix, or another id for this"
            f" follower; once that manager has ended for good, `gateway-manager run --adopt-from {identity}"
            " --accept-lost-records` takes over what it has left.",
        )
    found = f"A {what} that is not this manager's bears the name {name}{about}."
    if runs:
        return NameHeldError(found, hint="It runs, so see whose it is; choose another container_prefix.")
    return NameHeldError(found, hint=f"Remove it ({remove}), or choose another container_prefix.")
